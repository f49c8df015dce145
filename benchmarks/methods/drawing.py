"""The table as a drawing: a row a method, a dot a seed, a colour a sparsity."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(found: Mapping[str, Mapping[float, Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """Write the drawing; `found` is method to sparsity to rows, as `run.py` keeps them."""
    goals = sorted({goal for by_goal in found.values() for goal in by_goal if goal})
    names = [name for name in found if name != "dense"]

    def mean(name: str) -> float:
        values = _tests(found[name], goals[-1])
        return statistics.mean(values) if values else 0.0

    names.sort(key=mean)
    figure, axes = plt.subplots(figsize=(7.5, 0.32 * len(names) + 1.6), layout="constrained")
    every = [value for by_goal in found.values() for goal in by_goal for value in _tests(by_goal, goal)]
    best, worst = max(every), min(every)
    for place, goal in enumerate(goals):
        for height, name in enumerate(names):
            values = _tests(found[name], goal)
            if values:
                axes.plot(values, [height] * len(values), "o", color=f"C{place}", alpha=0.45, markersize=5)
                axes.plot([statistics.mean(values)], [height], "|", color=f"C{place}", markersize=15, markeredgewidth=2)
        axes.plot([], [], "o", color=f"C{place}", label=f"{100 * goal:g} % zeros")
    dense = _tests(found.get("dense", {}), 0.0)
    if dense:
        axes.axvline(statistics.mean(dense), color="grey", linewidth=1, label="dense")
    axes.set_yticks(range(len(names)), names)
    # Methods that collapse would flatten all that matters: an arrow points to where they are.
    left = max(best - 12, worst - 0.5, 0)
    for height, name in enumerate(names):
        fell = [place for place, goal in enumerate(goals) if any(value < left for value in _tests(found[name], goal))]
        for step, place in enumerate(fell):
            axes.plot([left + 0.15 + 0.25 * step], [height], "<", color=f"C{place}", markersize=6, clip_on=False)
    axes.set_xlim(left, best + 0.5)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("test accuracy, %; a bar is the mean of the seeds")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(goals) + 1, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _tests(by_goal: Mapping[float, Sequence[Mapping[str, Any]]], goal: float) -> list[float]:
    """The test accuracies at a sparsity, in per cent."""
    return [100 * row["test"] for row in by_goal.get(goal, [])]
