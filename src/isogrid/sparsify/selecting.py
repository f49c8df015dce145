"""The base of methods that aim at one sparsity, in one pattern, shared out over the layers by one allocation."""

from __future__ import annotations

from dataclasses import dataclass

from isogrid.selection import Aim
from isogrid.sparsify.method import Method
from isogrid.sparsify.selection import Scores, check_pattern, select
from isogrid.sparsify.state import SparseState


@dataclass(frozen=True)
class Selecting(Aim, Method):
    """Options that such methods share.

    Attributes:
        sparsity: fraction of the targets' weights that are zero in the end, in [0, 1).  May be left out with a pattern
            that implies it, such as ``"2:4"``.
        pattern: a `Pattern` or its text.
        allocation: an `Allocation` or its name; None takes the method's own default.
    """

    def __post_init__(self) -> None:
        Aim.__post_init__(self)
        Method.__post_init__(self)

    def check(self, state: SparseState) -> None:
        check_pattern(state, self.target_pattern)

    def begin(self, state: SparseState) -> None:
        state.numbers["initial_sparsity"] = state.mask_sparsity

    def keep_best(self, state: SparseState, scores: Scores, sparsity: float) -> None:
        """Set the masks that keep the highest `scores` (name to canonical array) at `sparsity`."""
        state.set_masks(select(state, scores, sparsity, self.target_pattern, self.target_allocation))
