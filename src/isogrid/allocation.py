"""Allocations: how one sparsity for the whole model is shared out over its layers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import PatternError, UsageError
from isogrid.names import canonical, unknown_name
from isogrid.patterns import Grid, Pattern, Unstructured, active_count, rankable


@dataclass(frozen=True, eq=False)
class Layer:
    """What an allocation may know of a layer.

    Attributes:
        name: unique among the layers that share a budget.
        shape: of the canonical weight (axis 0 output, axis 1 input, then kernel axes).
        scores: one number a weight, higher is kept; only for allocations with `Allocation.needs_scores`.

    Raises:
        UsageError: `scores` has another shape.

    >>> Layer("conv", (8, 3, 3, 3)).size
    216
    """

    name: str
    shape: tuple[int, ...]
    scores: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.scores is not None and self.scores.shape != tuple(self.shape):
            raise UsageError(
                f"Layer {self.name!r} got scores of shape {self.scores.shape}: "
                f"accepted is the weight's shape {tuple(self.shape)}."
            )

    @property
    def size(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)


class Allocation(ABC):
    """How one sparsity is shared out over layers.

    An allocation of your own is a frozen dataclass with `name`, `needs_scores` and `share`.

    Attributes:
        name: what `parse_allocation` and the command line call it.
        needs_scores: whether every layer must come with scores.
    """

    name: ClassVar[str]
    needs_scores: ClassVar[bool]

    @abstractmethod
    def share(self, layers: Sequence[Layer], sparsity: float, pattern: Pattern) -> list[int]:
        """How many groups each layer keeps in every partition of its `Pattern.grid`.

        `allocate` has checked the arguments and left out layers without weights.
        """

    @final
    def allocate(self, layers: Iterable[Layer], sparsity: float, pattern: Pattern = Unstructured()) -> dict[str, int]:
        """The number of active weights of each layer, by name, in the order given.

        Each is a number that `Pattern.mask` meets exactly on that layer, and together they are at most
        ``active_count(total, sparsity)``.  A pattern that implies its sparsity overrides `sparsity`: every layer
        simply gets what is implied.

        Raises:
            UsageError: `sparsity` is outside [0, 1], two layers share a name, or scores that are needed are missing.
            PatternError: the pattern does not fit a layer, or a layer's scores are not finite.

        >>> layers = [Layer("a", (10, 10)), Layer("b", (30, 30))]
        >>> Uniform().allocate(layers, 0.9)
        {'a': 10, 'b': 90}
        >>> ERK().allocate(layers, 0.9)
        {'a': 25, 'b': 75}
        """
        layers = list(layers)
        active_count(0, sparsity)
        if len({layer.name for layer in layers}) < len(layers):
            raise UsageError(f"Layer names must differ, got {[layer.name for layer in layers]}.")
        for layer in layers:
            with _naming(layer):
                pattern.check(layer.shape)
        filled = [layer for layer in layers if layer.size]
        if pattern.implied_sparsity is not None:
            groups = Uniform().share(filled, pattern.implied_sparsity, pattern)
        else:
            for layer in filled:
                if self.needs_scores and layer.scores is None:
                    raise UsageError(f"Layer {layer.name!r} has no scores: allocation {self} needs them.")
            groups = self.share(filled, sparsity, pattern)
        counts = {layer.name: 0 for layer in layers}
        for layer, kept in zip(filled, groups, strict=True):
            counts[layer.name] = kept * pattern.grid(layer.shape).step
        return counts

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Uniform(Allocation):
    """Every layer gets the same sparsity.  Each rounds its own count down, so the budget may not be used up.

    >>> Uniform().allocate([Layer("a", (3, 5)), Layer("b", (4, 4))], 0.5)
    {'a': 7, 'b': 8}
    """

    name: ClassVar[str] = "uniform"
    needs_scores: ClassVar[bool] = False

    def share(self, layers: Sequence[Layer], sparsity: float, pattern: Pattern) -> list[int]:
        return [active_count(layer.size, sparsity) // pattern.grid(layer.shape).step for layer in layers]


@dataclass(frozen=True)
class ERK(Allocation):
    """Erdos-Renyi-kernel: the density of a layer is proportional to ``sum(shape) / prod(shape)``.

    Layers whose density would pass 1 are dense, and the factor of the others is computed again until none passes.  A
    linear layer has no kernel axes, so there this is the Erdos-Renyi rule itself.  Counts are exact rational
    arithmetic rounded by largest remainder: the whole budget is used, as far as the pattern's steps allow.

    Source: Evci et al. 2020, "Rigging the lottery", arXiv:1911.11134, section 3; Mocanu et al. 2018, arXiv:1707.04780,
    for layers without kernels.

    >>> ERK().allocate([Layer("small", (4, 4)), Layer("large", (100, 100))], 0.5)
    {'small': 16, 'large': 4992}
    """

    name: ClassVar[str] = "erk"
    needs_scores: ClassVar[bool] = False

    def share(self, layers: Sequence[Layer], sparsity: float, pattern: Pattern) -> list[int]:
        budget = active_count(sum(layer.size for layer in layers), sparsity)
        ideal = [Fraction(layer.size) for layer in layers]
        sparse = set(range(len(layers)))
        while sparse:
            # density * size = factor * sum(shape) / prod(shape) * size = factor * sum(shape); a scalar has no axes.
            spans = {i: max(1, sum(layers[i].shape)) for i in sparse}
            dense = sum(layer.size for i, layer in enumerate(layers) if i not in sparse)
            factor = Fraction(budget - dense, sum(spans.values()))
            passing = {i for i in sparse if factor * spans[i] > layers[i].size}
            if not passing:
                for i, span in spans.items():
                    ideal[i] = factor * span
                break
            sparse -= passing
        return _largest_remainder(ideal, [pattern.grid(layer.shape) for layer in layers], budget)


@dataclass(frozen=True)
class Global(Allocation):
    """One ranking of all layers' groups, cut where the budget is full.

    A group counts by its mean score a weight, ties by the order of layers.  Where a pattern has several partitions,
    what is ranked is one more group in all of them together, from the best group of each to the worst.  The cut is at
    the first group that no longer fits, so a lower sparsity keeps all that a higher one keeps.

    Source: Han et al. 2015, arXiv:1506.02626, ranked over the whole network as in Blalock et al. 2020, "What is the
    state of neural network pruning?", arXiv:2003.03033.

    >>> a, b = np.array([[4.0, 3.0]]), np.array([[1.0, 2.0]])
    >>> Global().allocate([Layer("a", a.shape, a), Layer("b", b.shape, b)], 0.25)
    {'a': 2, 'b': 1}
    """

    name: ClassVar[str] = "global"
    needs_scores: ClassVar[bool] = True

    def share(self, layers: Sequence[Layer], sparsity: float, pattern: Pattern) -> list[int]:
        if not layers:
            return []
        budget = active_count(sum(layer.size for layer in layers), sparsity)
        steps = np.array([pattern.grid(layer.shape).step for layer in layers])
        ranked = [_group_scores(layer, pattern) for layer in layers]
        values = np.concatenate(ranked)
        if np.all(steps == steps[0]):
            keep = budget // int(steps[0])
        else:
            order = np.argsort(-values, kind="stable")
            filled = np.cumsum(np.repeat(steps, [scores.size for scores in ranked])[order])
            keep = int(np.searchsorted(filled, budget, side="right"))
        if keep == 0:
            return [0] * len(layers)
        threshold = np.partition(values, values.size - keep)[values.size - keep]
        counts = [int(np.count_nonzero(scores > threshold)) for scores in ranked]
        seats = keep - sum(counts)
        for i, scores in enumerate(ranked):
            tied = min(seats, int(np.count_nonzero(scores == threshold)))
            counts[i] += tied
            seats -= tied
        return counts


_ALLOCATIONS: dict[str, type[Allocation]] = {allocation.name: allocation for allocation in (Uniform, ERK, Global)}


def parse_allocation(text: str) -> Allocation:
    """The allocation named by `text`: uniform, erk or global.

    Raises:
        UsageError: the text names no allocation.

    >>> parse_allocation("erk")
    ERK()
    """
    name = canonical(text)
    if name not in _ALLOCATIONS:
        raise unknown_name("allocation", text, _ALLOCATIONS)
    return _ALLOCATIONS[name]()


@contextmanager
def _naming(layer: Layer) -> Iterator[None]:
    """Says in which layer a pattern failed."""
    try:
        yield
    except PatternError as error:
        raise PatternError(f"Layer {layer.name!r}: {error}") from None


def _group_scores(layer: Layer, pattern: Pattern) -> NDArray[np.floating]:
    """The mean score a weight of one more group in every partition: the best ones first, the worst ones last.

    Single weights come as they are: only how many pass the cut is asked, and their own type takes half the memory.
    """
    grid = pattern.grid(layer.shape)
    with _naming(layer):
        scores = rankable(np.asarray(layer.scores))
    if grid.step == 1:
        return pattern.fold(scores).ravel()
    best_first = np.sort(pattern.pool(scores), axis=1)[:, ::-1]
    return np.asarray(best_first.sum(axis=0) / grid.step)


def _largest_remainder(ideal: Sequence[Fraction], grids: Sequence[Grid], budget: int) -> list[int]:
    """Groups a partition nearest to the `ideal` weights, until no layer can take one more within `budget`."""
    exact = [weights / grid.step for weights, grid in zip(ideal, grids, strict=True)]
    groups = [math.floor(count) for count in exact]
    rest = budget - sum(count * grid.step for count, grid in zip(groups, grids, strict=True))
    order = sorted(range(len(grids)), key=lambda i: groups[i] - exact[i])
    while takers := [i for i in order if groups[i] < grids[i].groups and grids[i].step <= rest]:
        # All whole rounds at once: where steps differ much, a large rest could take thousands of them.
        rounds = min(rest // sum(grids[i].step for i in takers), *(grids[i].groups - groups[i] for i in takers))
        for i in takers:
            more = rounds or int(grids[i].step <= rest)
            groups[i] += more
            rest -= more * grids[i].step
    return groups
