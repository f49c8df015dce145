"""Static sparsity: zeros that are fixed before training starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isogrid.errors import UsageError
from isogrid.rules.scoring import Fixed
from isogrid.sparsify.method import register_method
from isogrid.sparsify.scoring import Scoring
from isogrid.sparsify.state import SparseState


class LayerCollapseWarning(UserWarning):
    """A layer has lost its last weight before training: nothing passes it, so that no training can follow."""


@register_method(
    "synflow", "SynFlow: the weights that carry most of all paths, chosen before training.", score="synflow"
)
@register_method("grasp", "GraSP: the weights that the gradient flow needs, chosen before training.", score="grasp")
@register_method("snip", "SNIP: the weights that the loss is most sensitive to, chosen before training.", score="snip")
@register_method("static")
@dataclass(frozen=True)
class Static(Fixed, Scoring):
    """Static sparsity: a random mask, one chosen by a score, or masks that are given, held from first to last.

    Random masks take the Erdos-Renyi-kernel shares by default, as the static baseline of Evci et al. 2020
    (arXiv:1911.11134, section 4) does; scores rank all layers together, as published for SNIP (arXiv:1810.02340), GraSP
    (arXiv:2002.07376) and SynFlow (arXiv:2006.05467).  An adopted mask is only ever made sparser.  Scores that look at
    gradients need data: 10 samples of each class or so do.  SynFlow only takes the shape of the input from it.

    A score that ranks all layers together may leave nothing of one (layer collapse), of which a `LayerCollapseWarning`
    tells.  SynFlow's rounds avoid it, and so do the allocations erk and lamp, as long as there is a weight for each.

    Attributes:
        score: what ranks the initial weights, a `Score` or its name; random by default.
        masks: parameter name to boolean tensor of the parameter's shape (True = active) instead of a score; they
            must name every target, and `sparsity` then follows from them.

    >>> Static(sparsity=0.9).allocation, Static(sparsity=0.9, score="snip").allocation
    (ERK(), Global())
    >>> Static(sparsity=0.9, score="synflow").rounds
    100
    """

    def check_given(self, masks: Any) -> None:
        if not isinstance(masks, Mapping) or not all(isinstance(mask, Tensor) for mask in masks.values()):
            raise UsageError(
                f"Static got masks={masks!r}; accepted is a mapping from parameter names to boolean tensors, or None."
            )

    def check(self, state: SparseState) -> None:
        if self.masks is None:
            super().check(state)
        else:
            state.fit_masks(self.masks)

    def begin(self, state: SparseState) -> None:
        if self.masks is not None:
            given = state.fit_masks(self.masks)
            state.set_masks({layer.name: layer.mask & given[layer.name] for layer in state.layers})
            return
        super().begin(state)
        alive = [layer for layer in state.layers if layer.active]
        self.prune_by_score(state, untrained=True)
        if emptied := [layer.name for layer in alive if not layer.active]:
            warnings.warn(
                f"Static(score='{self.score}') has left nothing of {', '.join(emptied)} at a sparsity of "
                f"{self.target_sparsity:.4g}, so that nothing passes; prune less, take an allocation that keeps "
                "something of each layer (erk, lamp), or leave these out with ignore=.",
                LayerCollapseWarning,
                stacklevel=2,
            )
