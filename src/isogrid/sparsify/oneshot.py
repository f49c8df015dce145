"""One-shot pruning of a trained model, without retraining."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from isogrid.scores import Magnitude, Score
from isogrid.sparsify.method import Usage, register_method
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import score_layer
from isogrid.sparsify.state import SparseState


@register_method("one_shot")
@dataclass(frozen=True)
class OneShot(Selecting):
    """One-shot pruning: the weights of lowest score become zero at once.

    Source: Han et al. 2015, arXiv:1506.02626, without the retraining.

    Attributes:
        score: what ranks the weights; it must need no gradient.

    >>> OneShot(pattern="2:4").sparsity
    0.5
    """

    score: Score = field(default_factory=Magnitude)

    usage: ClassVar[Usage] = Usage.AFTER

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        state.check_finite()
        scores = {layer.name: score_layer(state, layer, self.score) for layer in state.layers}
        self.keep_best(state, scores, max(self.target_sparsity, state.mask_sparsity))
