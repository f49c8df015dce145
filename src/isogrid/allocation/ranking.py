"""Allocations that cut one ranking of all layers: by the scores themselves, or by what each adds to its layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from isogrid.allocation.base import Allocation, Layer, group_scores
from isogrid.patterns import Pattern, active_count, nth_largest


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
        return _cut(layers, [group_scores(layer, pattern) for layer in layers], sparsity, pattern)


@dataclass(frozen=True)
class LAMP(Allocation):
    """Layer-adaptive magnitude-based pruning: one ranking by what each weight still adds to its own layer.

    With the scores s of a layer in descending order, the LAMP score of one of them is ``s_u^2 / sum_v s_v^2`` over all
    v not smaller than u (of equal ones, each counts those before it).  The best of each layer has 1, so that no layer
    with a positive score is emptied while the budget holds one weight (or group) for each.  Published for magnitudes;
    scores at or below zero rank by themselves, behind all positive ones.  Groups of a pattern count as in `Global`, by
    their mean score a weight.

    Source: Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611.

    >>> a, b = np.array([[40.0, 30.0, 30.0]]), np.array([[0.1, 0.2, 0.2]])
    >>> layers = [Layer("a", a.shape, a), Layer("b", b.shape, b)]
    >>> Global().allocate(layers, 0.5), LAMP().allocate(layers, 0.5)
    ({'a': 3, 'b': 0}, {'a': 1, 'b': 2})
    """

    name: ClassVar[str] = "lamp"
    needs_scores: ClassVar[bool] = True

    def share(self, layers: Sequence[Layer], sparsity: float, pattern: Pattern) -> list[int]:
        ranked = [_lamp_scores(group_scores(layer, pattern)) for layer in layers]
        return _cut(layers, ranked, sparsity, pattern)


def _lamp_scores(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """The LAMP score of each of a layer's groups, from the best to the worst."""
    descending = np.sort(scores.astype(np.float64))[::-1]
    largest = float(descending[0])
    if largest <= 0:
        return descending
    # Divided first: squares of the scores themselves may leave the range of floating point.
    squares = np.square(np.maximum(descending, 0) / largest)
    return np.where(descending > 0, squares / np.cumsum(squares), np.minimum(descending, 0))


def _cut(
    layers: Sequence[Layer], ranked: Sequence[NDArray[np.floating]], sparsity: float, pattern: Pattern
) -> list[int]:
    """How many of each layer's `ranked` groups belong to the best of all that fit the budget."""
    if not layers:
        return []
    budget = active_count(sum(layer.size for layer in layers), sparsity)
    steps = np.array([pattern.grid(layer.shape).step for layer in layers])
    values = np.concatenate(ranked)
    if np.all(steps == steps[0]):
        keep = budget // int(steps[0])
    else:
        order = np.argsort(-values, kind="stable")
        filled = np.cumsum(np.repeat(steps, [scores.size for scores in ranked])[order])
        keep = int(np.searchsorted(filled, budget, side="right"))
    if keep == 0:
        return [0] * len(layers)
    threshold = nth_largest(values, keep)
    counts = [int(np.count_nonzero(scores > threshold)) for scores in ranked]
    seats = keep - sum(counts)
    for i, scores in enumerate(ranked):
        tied = min(seats, int(np.count_nonzero(scores == threshold)))
        counts[i] += tied
        seats -= tied
    return counts
