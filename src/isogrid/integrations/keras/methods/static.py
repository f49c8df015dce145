"""Static sparsity in Keras: zeros that are fixed before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isogrid.errors import UnsupportedError, UsageError
from isogrid.integrations.keras.methods.base import Aimed
from isogrid.integrations.keras.state import SparseState
from isogrid.rules.scoring import Fixed


@dataclass(frozen=True)
class Static(Fixed, Aimed):
    """Static sparsity: a random mask, one by magnitude, or masks that are given, held from first to last.

    As `isogrid.Static`: random masks take the Erdos-Renyi-kernel shares by default, as the static baseline of Evci et
    al. 2020 (arXiv:1911.11134, section 4) does; magnitudes rank all layers together.  Adopted masks are only ever made
    sparser.

    Attributes:
        score: what ranks the initial weights: ``"random"``, the default, or ``"magnitude"``.
        masks: weight name to boolean array of the weight's shape (True = active) instead of a score; they must name
            every target, and `sparsity` then follows from them.

    Raises:
        UsageError: an option out of range, or both masks and a score.
        UnsupportedError: a score that looks at data.

    >>> Static(sparsity=0.9).allocation, Static(sparsity=0.9, score="magnitude").allocation
    (ERK(), Global())
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_score.needs:
            raise UnsupportedError(
                f"Static got score={self.score}, which looks at data before training; accepted with Keras are random "
                "and magnitude, or masks that are given."
            )

    def check_given(self, masks: Any) -> None:
        if not isinstance(masks, Mapping) or not all(hasattr(mask, "shape") for mask in masks.values()):
            raise UsageError(
                f"Static got masks={masks!r}; accepted is a mapping from weight names to boolean arrays, or None."
            )

    def begin(self, state: SparseState) -> None:
        if self.masks is not None:
            given = state.fit_masks(self.masks)
            state.write_masks({layer.name: layer.mask & given[layer.name] for layer in state.layers})
            return
        super().begin(state)
        self.prune_at_once(state)
