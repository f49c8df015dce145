"""The base of methods that aim at one sparsity, in one pattern, shared out over the layers by one allocation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isogrid.allocation import Allocation, parse_allocation
from isogrid.errors import UsageError
from isogrid.patterns import Pattern, parse_pattern
from isogrid.sparsify.method import Method, check_sparsity
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
        pattern = parse_pattern(self.pattern) if isinstance(self.pattern, str) else self.pattern
        chosen = self.default_allocation if self.allocation is None else self.allocation
        allocation = parse_allocation(chosen) if isinstance(chosen, str) else chosen
        if not isinstance(pattern, Pattern) or not isinstance(allocation, Allocation):
            raise UsageError(
                f"{owner} got pattern={pattern!r} and allocation={allocation!r}; accepted are a Pattern and an "
                "Allocation, or their names."
            )
        object.__setattr__(self, "pattern", pattern)
        object.__setattr__(self, "allocation", allocation)
        implied = pattern.implied_sparsity
        sparsity = implied if self.sparsity is None else self.sparsity
        if sparsity is None:
            raise UsageError(
                f"{owner} needs a sparsity, a number from 0 up to, not including, 1; the pattern implies none."
            )
        check_sparsity(owner, sparsity)
        if implied is not None and sparsity > implied:
            raise UsageError(f"{owner} got sparsity={sparsity:g}, and pattern {pattern} allows {implied:g} at most.")
        object.__setattr__(self, "sparsity", float(sparsity))

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

    def begin(self, state: SparseState) -> None:
        check_pattern(state, self.target_pattern)
        state.numbers["initial_sparsity"] = state.mask_sparsity

    def keep_best(self, state: SparseState, scores: Scores, sparsity: float) -> None:
        """Set the masks that keep the highest `scores` (name to canonical array) at `sparsity`."""
        state.set_masks(select(state, scores, sparsity, self.target_pattern, self.target_allocation))
