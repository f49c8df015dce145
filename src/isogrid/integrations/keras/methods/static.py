"""Static sparsity in Keras: zeros that are fixed before training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import UnsupportedError, UsageError
from isogrid.integrations.keras.methods.base import Aimed, score_layer
from isogrid.integrations.keras.state import SparseState
from isogrid.scores import Random, Score, parse_score


@dataclass(frozen=True)
class Static(Aimed):
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

    score: Score | str | None = None
    masks: Mapping[str, NDArray[np.bool_]] | None = field(default=None, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        if self.masks is not None and self.sparsity is None:
            size = sum(np.asarray(mask).size for mask in self.masks.values())
            active = sum(int(np.count_nonzero(mask)) for mask in self.masks.values())
            object.__setattr__(self, "sparsity", 1 - active / size if size else 0.0)
        score = parse_score(self.score) if isinstance(self.score, str) else self.score or Random()
        if not isinstance(score, Score):
            raise UsageError(f"Static got score={self.score!r}; accepted is a Score, or the name of one.")
        if score.needs:
            raise UnsupportedError(
                f"Static got score={score}, which looks at data before training; accepted with Keras are random and "
                "magnitude, or masks that are given."
            )
        if self.masks is not None and score != Random():
            raise UsageError(f"Static got both masks and score={score}; accepted is one of the two.")
        if self.allocation is None and score == Random():
            object.__setattr__(self, "allocation", "erk")
        object.__setattr__(self, "score", score)
        super().__post_init__()

    def begin(self, state: SparseState) -> None:
        if self.masks is not None:
            given = state.fit_masks(self.masks)
            state.set_masks({layer.name: layer.mask & given[layer.name] for layer in state.layers})
            return
        super().begin(state)
        state.check_finite()
        assert isinstance(self.score, Score)
        scores: dict[str, Any] = {layer.name: score_layer(state, layer, self.score) for layer in state.layers}
        self.keep_best(state, scores, self.target_sparsity)
