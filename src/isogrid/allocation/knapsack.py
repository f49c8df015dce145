"""One count for each of several layers, for the most value within a cost: a multiple-choice knapsack."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.allocation.base import Layer, group_scores
from isogrid.patterns import Pattern

_COUNTS = 96
"""Counts of a layer that are tried, beside the points of its cost curve."""
_STATES = 1024
"""Combinations of the layers before that are remembered."""
_HALVINGS = 32
"""How closely the price of a weight is searched."""
_SLACK = 1e-12
"""What the rounding of a sum may add to it."""


@dataclass(frozen=True, eq=False)
class Choices:
    """What may be kept of one layer.

    Attributes:
        step: weights in one group of each partition.
        scores: the mean score a weight of each further group, best first.
        counts: the numbers of groups that are tried, rising from 0 to all of them.
        values, costs: of `counts`.
        cost_of: densities to costs.
    """

    step: int
    scores: NDArray[np.float64]
    counts: NDArray[np.intp]
    values: NDArray[np.float64]
    costs: NDArray[np.float64]
    cost_of: Callable[[Any], NDArray[np.float64]]

    @classmethod
    def of(
        cls, layer: Layer, pattern: Pattern, cost_of: Callable[[Any], NDArray[np.float64]], points: Sequence[float]
    ) -> Choices:
        """Those of `layer`; `points` are densities to be tried too."""
        step = pattern.grid(layer.shape).step
        scores = np.sort(group_scores(layer, pattern).astype(np.float64))[::-1]
        size = scores.size
        counts = np.arange(size + 1)
        if size > _COUNTS:
            # Evenly, and ever closer towards nothing, where every group tells.
            spaced = [np.linspace(0, size, _COUNTS // 2), np.geomspace(1, size, _COUNTS // 2)]
            counts = np.unique(np.concatenate([*spaced, np.asarray(points) * size]).astype(np.intp))
        values = np.concatenate([np.zeros(1), np.cumsum(scores * step)])[counts]
        return cls(step, scores, counts, values, cost_of(counts / size), cost_of)


def best_choices(choices: Sequence[Choices], limit: float, allowed: int) -> list[int]:
    """The number of groups of each layer, for the most value at a cost of at most `limit` and `allowed` weights."""
    weights = [choice.counts * choice.step for choice in choices]
    costs = [choice.costs for choice in choices]

    def solve(price: float, states: int) -> tuple[list[int], int]:
        """The best indices where each weight costs `price` of the value, and how many weights these are."""
        values = [choice.values - price * weight for choice, weight in zip(choices, weights, strict=True)]
        picked = _pick(values, costs, limit, states)
        return picked, sum(int(weight[i]) for weight, i in zip(weights, picked, strict=True))

    best, count = solve(0.0, _STATES)
    if count > allowed:
        best = [0] * len(choices)
        low, high = 0.0, max(0.0, *(float(choice.scores[0]) for choice in choices))
        for _ in range(_HALVINGS):
            price = (low + high) / 2
            # The price is searched with fewer combinations: it is only a number on the way.
            picked, count = solve(price, _STATES // 16)
            if count > allowed:
                low = price
            else:
                best, high = picked, price
        picked, count = solve(high, _STATES)
        best = picked if count <= allowed else best
    return [int(choice.counts[i]) for choice, i in zip(choices, best, strict=True)]


def _pick(
    values: Sequence[NDArray[np.float64]], costs: Sequence[NDArray[np.float64]], limit: float, states: int
) -> list[int]:
    """The index for each layer that maximises the sum of `values` with a sum of `costs` of at most `limit`."""
    alone = [value.size - 1 - int(np.argmax(value[::-1])) for value in values]
    if math.fsum(float(cost[i]) for cost, i in zip(costs, alone, strict=True)) <= limit:
        return alone
    # The least that the layers behind each one cost.
    behind = [math.fsum(float(cost[0]) for cost in costs[place + 1 :]) for place in range(len(costs))]
    spent, gained = np.zeros(1), np.zeros(1)
    trail: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for value, cost, rest in zip(values, costs, behind, strict=True):
        total_spent, total_gained = np.add.outer(spent, cost).ravel(), np.add.outer(gained, value).ravel()
        affordable = np.flatnonzero(total_spent + rest <= limit * (1 + _SLACK))
        order = affordable[np.argsort(total_spent[affordable], kind="stable")]
        kept = order[_undominated(total_gained[order])]
        kept = kept[_spread(total_spent[kept], limit - rest, states)]
        trail.append((kept // cost.size, kept % cost.size))
        spent, gained = total_spent[kept], total_gained[kept]
    state, picked = spent.size - 1, []
    for before, choice in reversed(trail):
        picked.append(int(choice[state]))
        state = int(before[state])
    return picked[::-1]


def _undominated(gained: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of combinations by rising cost, those that gain more than all cheaper ones."""
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], gained[:-1]]))
    return np.asarray(gained > best_before)


def _spread(spent: NDArray[np.float64], most: float, states: int) -> NDArray[np.intp]:
    """Places of the cheapest combination and, where there are too many, of the best in each interval of cost."""
    if spent.size <= states:
        return np.arange(spent.size)
    interval = np.floor((spent - spent[0]) / (most - spent[0]) * (states - 1))
    last = np.flatnonzero(np.diff(interval, append=np.inf))
    return np.unique(np.concatenate([[0], last]))


def fill(choices: Sequence[Choices], counts: Sequence[int], limit: float, allowed: int) -> list[int]:
    """`counts`, with further groups added as long as one fits: first those of most score for what they use up."""
    counts = list(counts)
    costs = [choice.cost_of(np.arange(choice.scores.size + 1) / choice.scores.size) for choice in choices]
    steps = np.array([choice.step for choice in choices])
    limit *= 1 + _SLACK
    while True:
        left = limit - math.fsum(float(along[count]) for along, count in zip(costs, counts, strict=True))
        room = allowed - int(np.dot(steps, counts))
        # How far each layer could go alone.
        ends = [
            min(int(np.searchsorted(along, along[count] + left, side="right")) - 1, count + room // choice.step)
            for choice, along, count in zip(choices, costs, counts, strict=True)
        ]
        takers = [i for i, end in enumerate(ends) if end > counts[i]]
        if not takers:
            return counts
        owners = np.concatenate([np.full(ends[i] - counts[i], i) for i in takers])
        added = [np.diff(costs[i][counts[i] : ends[i] + 1]) for i in takers]
        worth = []
        for i, more in zip(takers, added, strict=True):
            scores = choices[i].scores[counts[i] : ends[i]]
            used = more / max(left, _SLACK) + choices[i].step / room
            # Never rising, for a layer's groups come in their own order.
            worth.append(np.minimum.accumulate(np.where(scores > 0, scores * choices[i].step / used, scores)))
        order = np.argsort(-np.concatenate(worth), kind="stable")
        spent, filled = np.cumsum(np.concatenate(added)[order]), np.cumsum(steps[owners[order]])
        fits = (spent <= left) & (filled <= room)
        # The first that does not fit ends the round and its layer's part; others may go on in the next.
        fitting = order.size if fits.all() else max(1, int(np.argmin(fits)))
        for i, more in zip(*np.unique(owners[order[:fitting]], return_counts=True), strict=True):
            counts[i] += int(more)
