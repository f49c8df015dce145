"""Scores of whole units: how much a channel, a hidden unit or a head matters.  The lowest are removed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isogrid.errors import UsageError
from isogrid.names import canonical, unknown_name

Products = Callable[[], Sequence[Mapping[str, Tensor]]]
"""For each batch of data, the gradient of the loss times the weight, by parameter; float64."""


class UnitScore(ABC):
    """How much each unit of a group matters.

    A score of your own is a frozen dataclass with `name`, `needs_data` and ``__call__``.

    Attributes:
        name: what `parse_unit_score` calls it.
        needs_data: whether `products` may be asked for.
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool]

    @abstractmethod
    def __call__(self, sums: Sums, weights: Mapping[str, Tensor], products: Products) -> Tensor:
        """One number a unit, float64 [units], higher for a unit that matters more.

        Args:
            sums: adds up over all weights of a unit.
            weights: the parameters, by name.
            products: see `Products`.
        """

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Sums:
    """Adds up what belongs to each unit, over all the parameters that it lies across.

    Attributes:
        places: for each parameter and axis, the position in the group of the unit of each index, -1 for another's.
        units: how many units the group has.

    >>> sums = Sums({("w", 0): torch.tensor([0, 1, -1])}, 2)
    >>> sums({"w": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}).tolist()
    [3.0, 7.0]
    """

    places: Mapping[tuple[str, int], Tensor]
    units: int

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """The sums of `values`, tensors of the parameters' shapes by name: float64 [units]."""
        total = torch.zeros(self.units + 1, dtype=torch.float64)
        for (name, axis), place in self.places.items():
            value = values[name].detach().double().cpu()
            line = value.sum(dim=[other for other in range(value.dim()) if other != axis]) if value.dim() > 1 else value
            total.index_add_(0, torch.where(place < 0, self.units, place), line)
        return total[: self.units]


@dataclass(frozen=True)
class UnitNorm(UnitScore):
    """The L2 norm of all weights of a unit, in every layer that it lies across, ``sqrt(sum w^2)``.

    Source: Fang et al. 2023, "DepGraph: Towards any structural pruning", arXiv:2301.12900, section 3.3: the importance
    of a group is made of the norms of all its coupled parameters.

    >>> sums = Sums({("w", 0): torch.tensor([0, 1])}, 2)
    >>> UnitNorm()(sums, {"w": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}, list).tolist()
    [5.0, 1.0]
    """

    name: ClassVar[str] = "magnitude"
    needs_data: ClassVar[bool] = False

    def __call__(self, sums: Sums, weights: Mapping[str, Tensor], products: Products) -> Tensor:
        names = {name for name, _ in sums.places}
        return sums({name: weights[name].detach().double().square() for name in names}).sqrt()


@dataclass(frozen=True)
class UnitTaylor(UnitScore):
    """What the loss would change if a unit were removed, to first order: the mean over batches of ``(sum g w)^2``.

    Source: Molchanov et al. 2019, "Importance estimation for neural network pruning", arXiv:1906.10771, section 3.1,
    for a structural group of weights.

    >>> sums = Sums({("w", 0): torch.tensor([0, 1])}, 2)
    >>> products = [{"w": torch.tensor([[1.0, 1.0], [1.0, -1.0]])}, {"w": torch.tensor([[0.0, 0.0], [3.0, 1.0]])}]
    >>> UnitTaylor()(sums, {}, lambda: products).tolist()
    [2.0, 8.0]
    """

    name: ClassVar[str] = "taylor"
    needs_data: ClassVar[bool] = True

    def __call__(self, sums: Sums, weights: Mapping[str, Tensor], products: Products) -> Tensor:
        batches = [sums(product).square() for product in products()]
        return torch.stack(batches).mean(dim=0)


_SCORES: dict[str, type[UnitScore]] = {score.name: score for score in (UnitNorm, UnitTaylor)}


def parse_unit_score(text: str) -> UnitScore:
    """The score named by `text`: magnitude or taylor.

    Raises:
        UsageError: the text names no score.

    >>> parse_unit_score("taylor")
    UnitTaylor()
    """
    name = canonical(text)
    if name not in _SCORES:
        raise unknown_name("score", text, _SCORES)
    return _SCORES[name]()


def check_unit_score(score: UnitScore | str) -> UnitScore:
    """A score, or the one that a text names."""
    if isinstance(score, str):
        return parse_unit_score(score)
    if not isinstance(score, UnitScore):
        raise UsageError(f"shrink got score={score!r}; accepted are {', '.join(_SCORES)} and UnitScore objects.")
    return score
