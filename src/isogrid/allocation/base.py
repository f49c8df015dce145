"""What an allocation is, what it may know of a layer, and what allocations share."""

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
        return int(math.prod(self.shape))


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

        >>> from isogrid.allocation import ERK, Uniform
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
            groups = [alike(layer, pattern.implied_sparsity, pattern) for layer in filled]
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


def alike(layer: Layer, sparsity: float, pattern: Pattern) -> int:
    """Groups a partition of a layer that gets the sparsity of the whole."""
    return active_count(layer.size, sparsity) // pattern.grid(layer.shape).step


def layer_scores(layer: Layer) -> NDArray[np.floating]:
    """The scores of a layer that has some, as they can be ranked.

    Raises:
        PatternError: one is not a finite number.
    """
    with _naming(layer):
        return rankable(np.asarray(layer.scores))


def group_scores(layer: Layer, pattern: Pattern) -> NDArray[np.floating]:
    """The mean score a weight of one more group in every partition: the best ones first, the worst ones last.

    Single weights come as they are: only how many pass the cut is asked, and their own type takes half the memory.

    Raises:
        PatternError: a score is not a finite number.
    """
    grid = pattern.grid(layer.shape)
    scores = layer_scores(layer)
    if grid.step == 1:
        return pattern.fold(scores).ravel()
    best_first = np.sort(pattern.pool(scores), axis=1)[:, ::-1]
    return np.asarray(best_first.sum(axis=0) / grid.step)


def largest_remainder(ideal: Sequence[Fraction], grids: Sequence[Grid], budget: int) -> list[int]:
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


@contextmanager
def _naming(layer: Layer) -> Iterator[None]:
    """Says in which layer a pattern failed."""
    try:
        yield
    except PatternError as error:
        raise PatternError(f"Layer {layer.name!r}: {error}") from None
