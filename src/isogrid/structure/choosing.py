"""Which units go: how many of each group, and which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, gcd

import torch
from torch import Tensor

from isogrid.structure.groups import Group


@dataclass(frozen=True)
class Budget:
    """How much may go.

    Attributes:
        shares: for each group by name the fraction of its units that goes; groups that are missing stay whole.
        together: whether the units of all groups are ranked against one another, so that `shares` hold on average.
        minimum: units that every group keeps at least.
        round_to: outputs of a layer are kept in multiples of this.  Heads are not rounded.
    """

    shares: Mapping[str, float]
    together: bool
    minimum: int
    round_to: int

    def keep(self, group: Group, wanted: int) -> int:
        """How many units of a group stay, where `wanted` would: the next number that is allowed."""
        step = 1 if group.kind == "heads" else self.round_to // gcd(self.round_to, group.width)
        rounded = -(-max(wanted, self.minimum) // step) * step
        return min(rounded, len(group.units))


def choose(
    groups: Sequence[Group], scores: Mapping[str, Tensor], dead: set[int], budget: Budget
) -> dict[str, list[int]]:
    """The units to remove of each group, by its name.

    Units that change nothing go first, all of them, then those of the lowest score; ties go to the higher position.

    Args:
        groups: all groups.
        scores: float64 [units] for each group in ``budget.shares``.
        dead: units that change nothing.
        budget: how much may go.
    """
    wanted = _counts(groups, scores, budget)
    chosen: dict[str, list[int]] = {}
    for group in groups:
        gone = [unit for unit in group.units if unit in dead]
        order = gone
        if group.name in wanted:
            ranks = torch.argsort(torch.flip(scores[group.name], [0]), stable=True)
            ranked = [group.units[len(group.units) - 1 - rank] for rank in ranks.tolist()]
            order = gone + [unit for unit in ranked if unit not in dead]
        least = len(group.units) - max(len(gone), wanted.get(group.name, 0))
        kept = budget.keep(group, least)
        order = order[: len(group.units) - kept]
        if order:
            chosen[group.name] = sorted(order)
    return chosen


def _counts(groups: Sequence[Group], scores: Mapping[str, Tensor], budget: Budget) -> dict[str, int]:
    """How many units of each group go, before rounding."""
    ranked = [group for group in groups if group.name in budget.shares]
    if not budget.together:
        return {group.name: _share(budget.shares[group.name], len(group.units)) for group in ranked}
    total = sum(_share(budget.shares[group.name], len(group.units)) for group in ranked)
    counts = dict.fromkeys((group.name for group in ranked), 0)
    # Norms of one group are compared with those of another by their ratio to the group's mean.
    rows = [
        (float(value), index, group)
        for group in ranked
        for index, value in enumerate(scores[group.name] / scores[group.name].mean().clamp_min(1e-300))
    ]
    free = {group.name: len(group.units) - budget.keep(group, 0) for group in ranked}
    for _, _, group in sorted(rows, key=lambda row: (row[0], row[1])):
        if total > 0 and counts[group.name] < free[group.name]:
            counts[group.name] += 1
            total -= 1
    return counts


def _share(share: float, count: int) -> int:
    """A fraction of a count, rounded down; 0.7 of 10 is 7 whatever floating point says."""
    return floor(share * count + 1e-9)
