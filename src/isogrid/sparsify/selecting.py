"""The base of methods that aim at one sparsity, in one pattern, shared out over the layers by one allocation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isogrid.allocation import Allocation
from isogrid.patterns import Pattern
from isogrid.selection import resolve_aim
from isogrid.sparsify.method import Method
from isogrid.sparsify.selection import Scores, check_pattern, select
from isogrid.sparsify.state import SparseState


@dataclass(frozen=True)
class Selecting(Method):
    """Options that such methods share.

    Attributes:
        sparsity: fraction of the targets' weights that are zero in the end, in [0, 1).  May be left out with a pattern
            that implies it, such as ``"2:4"``.
        pattern: a `Pattern` or its text.
        allocation: an `Allocation` or its name; None takes the method's own default.
    """

    sparsity: float | None = None
    pattern: Pattern | str = "unstructured"
    allocation: Allocation | str | None = None

    default_allocation: ClassVar[str] = "global"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        chosen = self.default_allocation if self.allocation is None else self.allocation
        sparsity, pattern, allocation = resolve_aim(owner, self.sparsity, self.pattern, chosen)
        object.__setattr__(self, "sparsity", sparsity)
        object.__setattr__(self, "pattern", pattern)
        object.__setattr__(self, "allocation", allocation)
        super().__post_init__()

    @property
    def target_sparsity(self) -> float:
        """`sparsity`, resolved."""
        assert self.sparsity is not None
        return self.sparsity

    @property
    def target_pattern(self) -> Pattern:
        """`pattern`, resolved."""
        assert isinstance(self.pattern, Pattern)
        return self.pattern

    @property
    def target_allocation(self) -> Allocation:
        """`allocation`, resolved."""
        assert isinstance(self.allocation, Allocation)
        return self.allocation

    def check(self, state: SparseState) -> None:
        check_pattern(state, self.target_pattern)

    def begin(self, state: SparseState) -> None:
        state.numbers["initial_sparsity"] = state.mask_sparsity

    def keep_best(self, state: SparseState, scores: Scores, sparsity: float) -> None:
        """Set the masks that keep the highest `scores` (name to canonical array) at `sparsity`."""
        state.set_masks(select(state, scores, sparsity, self.target_pattern, self.target_allocation))
