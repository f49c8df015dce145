"""Gradual magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass

from isogrid.errors import TargetError
from isogrid.rules.gradual import Ramped
from isogrid.rules.method import Gradients
from isogrid.sparsify.method import register_method
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import Scores, score_layer
from isogrid.sparsify.state import SparseState
from isogrid.sparsify.statistics import score_layers


@register_method("gradual")
@dataclass(frozen=True)
class Gradual(Ramped, Selecting):
    """Gradual magnitude pruning: sparsity rises along a cubic ramp, and what is pruned stays pruned.

    At step t the sparsity is ``s_f + (s_i - s_f) (1 - t/T)^3`` (Zhu and Gupta 2017, arXiv:1710.01878, eq. 1), reached
    by zeroing the active weights of smallest magnitude every `delta_t` steps (a hundredth of the training by
    default).  The ramp ends at three quarters of the training, so that the rest recovers with the masks held.  ``s_i``
    is the sparsity of the adopted masks.

    Attributes:
        schedule: the ramp, in fractions of the training.
        score: what ranks the weights.  One by the gradient (`Gradient`, `SNIP`, `Taylor`, `Movement`) takes that of the
            step; one that looks at more (`Fisher`, `Wanda`) runs the model on data at each pruning.
        delta_t: steps between two prunings.

    >>> Gradual(sparsity=0.9).schedule
    Cubic(begin=0.0, end=0.75)
    >>> Gradual(pattern="2:4").sparsity
    0.5
    """

    @property
    def needs_data(self) -> bool:
        return self.needs_more_than_a_step

    def check(self, state: SparseState) -> None:
        super().check(state)
        for layer in state.layers if self._by_gradient else ():
            if not layer.trained:
                raise TargetError(
                    f"Score {self.score} looks at the gradient of {layer.name}, which is frozen; leave it out with "
                    "ignore=, or rank by magnitude."
                )

    @property
    def _by_gradient(self) -> bool:
        return bool(self.score.needs) and not self.needs_data

    def gradients(self, state: SparseState) -> Gradients:
        return "active" if self._by_gradient and self.due(state, state.step + 1) else "none"

    def before_step(self, state: SparseState) -> None:
        """Scores by the gradient are taken while the gradients are there, before the weights move."""
        if self._by_gradient and self.due(state, state.step + 1):
            scores = {layer.name: score_layer(state, layer, self.score) for layer in state.layers}
            self._prune(state, state.step + 1, scores)

    def after_step(self, state: SparseState) -> None:
        if not self._by_gradient and self.due(state, state.step):
            self._prune(state, state.step, score_layers(state, self.score))

    def _prune(self, state: SparseState, step: int, scores: Scores) -> None:
        state.check_finite()
        self.keep_best(state, scores, self.sparsity_after(state, step))
