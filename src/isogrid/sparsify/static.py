"""Static sparsity: zeros that are fixed before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from isogrid.scores import Random
from isogrid.sparsify.method import Usage, register_method
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import score_layer
from isogrid.sparsify.state import SparseState


@register_method("static")
@dataclass(frozen=True)
class Static(Selecting):
    """Static sparsity: a random mask, or masks that are given, held from the first step to the last.

    Random masks take the Erdos-Renyi-kernel shares by default, as the static baseline of Evci et al. 2020
    (arXiv:1911.11134, section 4) does.  An adopted mask is only ever made sparser.

    Attributes:
        masks: parameter name to boolean tensor of the parameter's shape (True = active) instead of random ones; they
            must name every target, and `sparsity` then follows from them.

    >>> Static(sparsity=0.9).allocation
    ERK()
    """

    masks: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False, hash=False)

    usage: ClassVar[Usage] = Usage.RESTART
    default_allocation: ClassVar[str] = "erk"

    def __post_init__(self) -> None:
        if self.masks is not None and self.sparsity is None:
            size = sum(mask.numel() for mask in self.masks.values())
            active = sum(int(torch.count_nonzero(mask)) for mask in self.masks.values())
            object.__setattr__(self, "sparsity", 1 - active / size if size else 0.0)
        super().__post_init__()

    def begin(self, state: SparseState) -> None:
        if self.masks is not None:
            given = state.fit_masks(self.masks)
            state.set_masks({layer.name: layer.mask & given[layer.name] for layer in state.layers})
            return
        super().begin(state)
        scores = {layer.name: score_layer(state, layer, Random()) for layer in state.layers}
        self.keep_best(state, scores, max(self.target_sparsity, state.mask_sparsity))
