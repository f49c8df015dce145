"""Static sparsity: zeros that are fixed before training starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from isogrid.errors import UsageError
from isogrid.scores import Random
from isogrid.sparsify.method import Usage, register_method
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
class Static(Scoring):
    """Static sparsity: a random mask, one chosen by a score, or masks that are given, held from first to last.

    Random masks take the Erdos-Renyi-kernel shares by default, as the static baseline of Evci et al. 2020
    (arXiv:1911.11134, section 4) does; scores rank all layers together, as published for SNIP (arXiv:1810.02340), GraSP
    (arXiv:2002.07376) and SynFlow (arXiv:2006.05467).  An adopted mask is only ever made sparser.  Scores that look at
    gradients need data: 10 samples of each class or so do.  SynFlow only takes the shape of the input from it.

    A score that ranks all layers together may leave nothing of one (layer collapse), of which a `LayerCollapseWarning`
    tells.  SynFlow's rounds avoid it, and so do the allocations uniform, erk and lamp.

    Attributes:
        score: what ranks the initial weights, a `Score` or its name; random by default.
        masks: parameter name to boolean tensor of the parameter's shape (True = active) instead of a score; they
            must name every target, and `sparsity` then follows from them.

    >>> Static(sparsity=0.9).allocation, Static(sparsity=0.9, score="snip").allocation
    (ERK(), Global())
    >>> Static(sparsity=0.9, score="synflow").rounds
    100
    """

    masks: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False, hash=False)

    usage: ClassVar[Usage] = Usage.RESTART
    default_allocation: ClassVar[str] = "global"
    default_score: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        if self.masks is not None and not _are_masks(self.masks):
            raise UsageError(
                f"Static got masks={self.masks!r}; accepted is a mapping from parameter names to boolean tensors, or "
                "None."
            )
        if self.masks is not None and self.sparsity is None:
            size = sum(mask.numel() for mask in self.masks.values())
            active = sum(int(torch.count_nonzero(mask)) for mask in self.masks.values())
            object.__setattr__(self, "sparsity", 1 - active / size if size else 0.0)
        at_random = self.score is None or self.score == Random.name or isinstance(self.score, Random)
        if self.masks is not None and not at_random:
            raise UsageError(f"Static got both masks and score={self.score!r}; accepted is one of the two.")
        if self.allocation is None and at_random:
            object.__setattr__(self, "allocation", "erk")
        super().__post_init__()

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
                "something of each layer (uniform, erk, lamp), or leave these out with ignore=.",
                LayerCollapseWarning,
                stacklevel=2,
            )


def _are_masks(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(mask, Tensor) for mask in value.values())
