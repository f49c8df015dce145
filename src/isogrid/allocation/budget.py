"""Sparsity shared out so that a cost (latency, bytes, operations) meets a bound and the most score is kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isogrid.allocation.base import Allocation, Layer
from isogrid.allocation.knapsack import Choices, best_choices, fill
from isogrid.errors import UsageError
from isogrid.patterns import Pattern, active_count


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs at each density: linear between the points given.

    Attributes:
        densities: shares of weights that are active, rising from 0 to 1.
        costs: of these, in any one unit (milliseconds, bytes, operations); never falling as the density rises.

    Raises:
        UsageError: the points are not as said.

    >>> LayerCost((0.0, 0.5, 1.0), (1.0, 4.0, 4.0)).at(0.25)
    2.5
    """

    densities: tuple[float, ...]
    costs: tuple[float, ...]

    def __post_init__(self) -> None:
        densities, costs = tuple(map(float, self.densities)), tuple(map(float, self.costs))
        object.__setattr__(self, "densities", densities)
        object.__setattr__(self, "costs", costs)
        rising = all(a < b for a, b in itertools.pairwise(densities))
        if len(densities) != len(costs) or densities[:1] != (0.0,) or densities[-1:] != (1.0,) or not rising:
            raise UsageError(
                f"LayerCost got {len(costs)} costs for densities {densities}; accepted are as many costs as densities, "
                "and densities that rise from 0 to 1."
            )
        if not all(math.isfinite(cost) and cost >= 0 for cost in costs) or any(
            a > b for a, b in itertools.pairwise(costs)
        ):
            raise UsageError(
                f"LayerCost got costs {costs}; accepted are finite numbers >= 0 that never fall as the density rises "
                "(numpy.maximum.accumulate makes such of measurements)."
            )

    @classmethod
    def linear(cls, dense: float, *, fixed: float = 0.0) -> LayerCost:
        """A cost in proportion to the active weights, on top of what is `fixed`; `dense` is that of all of them.

        >>> LayerCost.linear(10.0, fixed=2.0).at(0.5)
        6.0
        """
        return cls((0.0, 1.0), (fixed, dense))

    @classmethod
    def of(cls, cost: Callable[[float], float], points: int = 101) -> LayerCost:
        """A function from density to cost, taken at evenly spaced `points`.

        >>> LayerCost.of(lambda density: min(1.0, 0.1 + 2 * density), points=11).at(0.3)
        0.7
        """
        densities = tuple(np.linspace(0, 1, points).tolist())
        return cls(densities, tuple(float(cost(density)) for density in densities))

    def at(self, density: float) -> float:
        """The cost at that density."""
        return float(self.along(density))

    def along(self, densities: ArrayLike) -> NDArray[np.float64]:
        """The costs at all these densities."""
        return np.interp(np.asarray(densities, dtype=np.float64), self.densities, self.costs)


@dataclass(frozen=True)
class Budget(Allocation):
    """The allocation that keeps the most score within a bound on what the layers cost together.

    It maximises the sum of the scores that are kept (of a score that estimates a loss, such as `Fisher`, the least
    rise of the loss) subject to ``sum_l cost_l(density_l) <= limit``, by dynamic programming over the layers.  The
    sparsity that `allocate` is given is the least one: where the costs alone would let more weights stay, each weight
    is charged what it takes to meet that too (a Lagrange multiplier), so that both bounds hold.  What is left of both
    goes to the groups of most score for what they use up.

    Optimality, without a least sparsity and for scores that are not negative: exact over all counts where the layers
    are small (up to 96 groups each, and up to 1024 undominated combinations); else over up to 96 counts a layer and
    its cost curve's own points, and at least as good as any that costs less than
    ``limit - L (limit - c) / 1023`` for L layers that cost c with no weight left.

    A pattern that implies its sparsity (N:M) leaves nothing to choose: there the limit is not looked at.  A method
    that climbs to its sparsity (`Gradual`) meets the limit from its first update on.

    Attributes:
        costs: layer name to `LayerCost`, or one for all layers alike.
        limit: what all layers together may cost, in the unit of `costs`; infinity for no bound.
        unit: that unit, for messages.

    Raises:
        UsageError: `limit` is not a number >= 0, a layer has no cost, or the limit is below what the layers cost with
            no weight left.

    Source: Frantar and Alistarh 2022, "SPDY: accurate pruning with speedup guarantees", arXiv:2201.13096 (dynamic
    programming over layers); Everett 1963, doi:10.1287/opre.11.3.399 (the multiplier).

    >>> fast, slow = np.array([4.0, 3.0, 1.0]), np.array([9.0, 2.0, 2.0])
    >>> layers = [Layer("fast", (3,), fast), Layer("slow", (3,), slow)]
    >>> costs = {"fast": LayerCost.linear(3.0), "slow": LayerCost.linear(30.0)}
    >>> budget = Budget(costs, limit=13.0, unit="ms")
    >>> counts = budget.allocate(layers, 0.0)
    >>> counts, budget.cost(layers, counts)
    ({'fast': 3, 'slow': 1}, 13.0)
    """

    costs: Mapping[str, LayerCost] | LayerCost = field(hash=False)
    limit: float
    unit: str = ""

    name: ClassVar[str] = "budget"
    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float) or not self.limit >= 0:
            raise UsageError(f"Budget got limit={self.limit!r}; accepted is a number >= 0.")
        if not isinstance(self.costs, LayerCost):
            given = dict(self.costs) if isinstance(self.costs, Mapping) else None
            if given is None or not all(isinstance(cost, LayerCost) for cost in given.values()):
                raise UsageError(f"Budget got costs={self.costs!r}; accepted is a LayerCost, or one for each layer.")
            object.__setattr__(self, "costs", given)

    def cost(self, layers: Sequence[Layer], counts: Mapping[str, int]) -> float:
        """What the layers cost together with so many active weights, by name."""
        return math.fsum(
            self._cost_of(layer).at(counts[layer.name] / layer.size if layer.size else 0.0) for layer in layers
        )

    def share(self, layers: Sequence[Layer], sparsity: float, pattern: Pattern) -> list[int]:
        if not layers:
            return []
        priced = [(layer, self._cost_of(layer)) for layer in layers]
        choices = [Choices.of(layer, pattern, cost.along, cost.densities) for layer, cost in priced]
        least = math.fsum(float(choice.costs[0]) for choice in choices)
        if least > self.limit:
            raise UsageError(
                f"Budget got limit={self.limit:g}{self._unit}, and the layers cost {least:g}{self._unit} with no "
                "weight left; accepted is a limit that is not lower."
            )
        allowed = active_count(sum(layer.size for layer in layers), sparsity)
        chosen = best_choices(choices, self.limit, allowed)
        return fill(choices, chosen, self.limit, allowed)

    def _cost_of(self, layer: Layer) -> LayerCost:
        if isinstance(self.costs, LayerCost):
            return self.costs
        if layer.name not in self.costs:
            raise UsageError(
                f"Budget has no cost of layer {layer.name!r}; it has those of {', '.join(sorted(self.costs))}."
            )
        return self.costs[layer.name]

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""
