"""Gradual magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass, field

from isogrid.schedules import Cubic, Schedule
from isogrid.scores import Magnitude, Score
from isogrid.sparsify.method import Gradients, check_interval, register_method, update_due
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import score_layer
from isogrid.sparsify.state import SparseState


@register_method("gradual")
@dataclass(frozen=True)
class Gradual(Selecting):
    """Gradual magnitude pruning: sparsity rises along a cubic ramp, and what is pruned stays pruned.

    At step t the sparsity is ``s_f + (s_i - s_f) (1 - t/T)^3`` (Zhu and Gupta 2017, arXiv:1710.01878, eq. 1), reached
    by zeroing the active weights of smallest magnitude every `delta_t` steps (a hundredth of the training by
    default).  The ramp ends at three quarters of the training, so that the rest recovers with the masks held.  ``s_i``
    is the sparsity of the adopted masks.

    Attributes:
        schedule: the ramp, in fractions of the training.
        score: what ranks the weights.
        delta_t: steps between two prunings.

    >>> Gradual(sparsity=0.9).schedule
    Cubic(begin=0.0, end=0.75)
    >>> Gradual(pattern="2:4").sparsity
    0.5
    """

    schedule: Schedule = field(default_factory=lambda: Cubic(end=0.75))
    score: Score = field(default_factory=Magnitude)
    delta_t: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(type(self).__name__, self.delta_t)

    def gradients(self, state: SparseState) -> Gradients:
        return "active" if self.score.needs_gradient and self._due(state, state.step + 1) else "none"

    def before_step(self, state: SparseState) -> None:
        """Scores that need gradients are taken while the gradients are there, before the weights move."""
        if self.score.needs_gradient and self._due(state, state.step + 1):
            self._prune(state, state.step + 1)

    def after_step(self, state: SparseState) -> None:
        if not self.score.needs_gradient and self._due(state, state.step):
            self._prune(state, state.step)

    def _due(self, state: SparseState, step: int) -> bool:
        return update_due(step, state.total_steps, self.delta_t, self.schedule)

    def _prune(self, state: SparseState, step: int) -> None:
        state.check_finite()
        progress = min(1.0, step / state.total_steps)
        initial = float(state.numbers["initial_sparsity"])
        goal = max(initial, self.target_sparsity)
        sparsity = self.schedule.value(progress, initial, goal)
        scores = {layer.name: score_layer(state, layer, self.score) for layer in state.layers}
        self.keep_best(state, scores, sparsity)
