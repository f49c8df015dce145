"""What many methods have in common: they aim at one sparsity, in one pattern, by one allocation over the layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from isogrid.allocation import Allocation, parse_allocation
from isogrid.checks import check_sparsity
from isogrid.errors import UsageError
from isogrid.patterns import Pattern, parse_pattern
from isogrid.rules.method import AnyMethod
from isogrid.rules.state import State
from isogrid.scores import Score
from isogrid.selection import select


def resolve_aim(
    owner: str, sparsity: float | None, pattern: Pattern | str, allocation: Allocation | str
) -> tuple[float, Pattern, Allocation]:
    """What a method aims at, with names looked up and a sparsity that the pattern implies filled in.

    Raises:
        UsageError: an unknown name, a sparsity out of range, none at all, or one beyond what the pattern allows.

    >>> resolve_aim("Gradual", None, "2:4", "global")
    (0.5, NofM(keep=2, of=4), Global())
    """
    pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
    allocation = parse_allocation(allocation) if isinstance(allocation, str) else allocation
    if not isinstance(pattern, Pattern) or not isinstance(allocation, Allocation):
        raise UsageError(
            f"{owner} got pattern={pattern!r} and allocation={allocation!r}; accepted are a Pattern and an "
            "Allocation, or their names."
        )
    implied = pattern.implied_sparsity
    sparsity = implied if sparsity is None else sparsity
    if sparsity is None:
        raise UsageError(
            f"{owner} needs a sparsity, a number from 0 up to, not including, 1; the pattern implies none."
        )
    check_sparsity(owner, sparsity)
    if implied is not None and sparsity > implied:
        raise UsageError(f"{owner} got sparsity={sparsity:g}, and pattern {pattern} allows {implied:g} at most.")
    return float(sparsity), pattern, allocation


@dataclass(frozen=True)
class Aim(AnyMethod):
    """The options of methods that aim at one sparsity, in one pattern, shared out over the layers by one allocation.

    Attributes:
        sparsity: fraction of the targets' weights that are zero in the end, in [0, 1).  May be left out with a pattern
            that implies it, such as ``"2:4"``.
        pattern: a `Pattern` or its text.
        allocation: an `Allocation` or its name; None takes the method's own default.

    >>> Aim(pattern="2:4").target_sparsity
    0.5
    """

    sparsity: float | None = None
    pattern: Pattern | str = "unstructured"
    allocation: Allocation | str | None = None

    default_allocation: ClassVar[str] = "global"

    def __post_init__(self) -> None:
        chosen = self.default_allocation if self.allocation is None else self.allocation
        sparsity, pattern, allocation = resolve_aim(type(self).__name__, self.sparsity, self.pattern, chosen)
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

    def goal(self, state: State) -> tuple[float, float]:
        """The sparsity that a ramp starts from, that of the adopted masks, and the one that it ends at."""
        initial = float(state.numbers["initial_sparsity"])
        return initial, max(initial, self.target_sparsity)

    def keep_best(self, state: State, scores: Mapping[str, NDArray[Any]], sparsity: float) -> None:
        """Set the masks that keep the highest `scores` (name to canonical array) at `sparsity`."""
        held = state.read_masks()
        state.write_masks(select(held, scores, sparsity, self.target_pattern, self.target_allocation))


def score_weights(state: State, score: Score) -> dict[str, NDArray[Any]]:
    """The score of each weight, by name and in canonical view; for scores that look at nothing but weights."""
    return {layer.name: score(layer.read_weight(), rng=state.rng("score", layer)) for layer in state.layers}
