"""Gradual magnitude pruning in Keras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import UnsupportedError
from isogrid.integrations.keras.methods.base import Aimed
from isogrid.integrations.keras.state import SparseLayer, SparseState
from isogrid.rules.gradual import Ramped
from isogrid.rules.method import Gradients
from isogrid.updates import closing_step


@dataclass(frozen=True)
class Gradual(Ramped, Aimed):
    """Gradual magnitude pruning: sparsity rises along a cubic ramp, and what is pruned stays pruned.

    As `isogrid.Gradual`: at step t the sparsity is ``s_f + (s_i - s_f) (1 - t/T)^3`` (Zhu and Gupta 2017,
    arXiv:1710.01878, eq. 1), reached by zeroing the active weights of smallest magnitude every `delta_t` steps (a
    hundredth of the training by default).  The ramp ends at three quarters of the training.

    Attributes:
        schedule: the ramp, in fractions of the training.
        score: what ranks the weights: `Magnitude`, `Random`, or one by the gradient of the last step (`Gradient`,
            `SNIP`, `Taylor`, `Movement`), which ranks the weights that this gradient was taken at.
        delta_t: steps between two prunings.

    Raises:
        UsageError: an option out of range.
        UnsupportedError: a score that looks at data.

    >>> Gradual(sparsity=0.9).schedule
    Cubic(begin=0.0, end=0.75)
    >>> Gradual(pattern="2:4").sparsity
    0.5
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.needs_more_than_a_step:
            raise UnsupportedError(
                f"Gradual got score={self.score}, which looks at more than a training step has; accepted with Keras "
                "are magnitude, random, gradient, snip, taylor and movement."
            )

    @property
    def gradients(self) -> Gradients:
        return "active" if self.score.needs else "none"

    def memories(self) -> Mapping[str, str]:
        return {"gradient": "weight", "weight": "weight", "seen": "scalar"} if self.score.needs else {}

    def remember(self, memory: Mapping[str, Any], gradient: Any, step: Any, total_steps: int) -> Mapping[str, Any]:
        return {"gradient": gradient}

    def update(self, state: SparseState) -> None:
        state.check_finite()
        scores = {layer.name: self._score(state, layer) for layer in state.layers}
        self.keep_best(state, scores, self.sparsity_after(state, state.step))

    def _score(self, state: SparseState, layer: SparseLayer) -> NDArray[Any]:
        """The score of each weight, of those that the gradient was taken at where the score looks at one."""
        rng = state.rng("score", layer)
        if not self.score.needs:
            return self.score(layer.weight, rng=rng)
        gradient = layer.remembered("gradient")
        return self.score(layer.remembered("weight"), rng=rng, gradient=gradient, squared_gradient=np.square(gradient))

    def arrived(self, state: SparseState) -> bool:
        return state.step >= closing_step(state.total_steps, self.schedule)
