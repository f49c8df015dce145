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
        rows = found[name].get(goals[-1], [])
        return statistics.mean(row["test"] for row in rows) if rows else 0.0

    names.sort(key=mean)
    figure, axes = plt.subplots(figsize=(7.5, 0.32 * len(names) + 1.6), layout="constrained")
    every = [100 * row["test"] for name in found for rows in found[name].values() for row in rows]
    best, worst = max(every), min(every)
    for place, goal in enumerate(goals):
        for height, name in enumerate(names):
            values = [100 * row["test"] for row in found[name].get(goal, [])]
            if values:
                axes.plot(values, [height] * len(values), "o", color=f"C{place}", alpha=0.45, markersize=5)
                axes.plot([statistics.mean(values)], [height], "|", color=f"C{place}", markersize=15, markeredgewidth=2)
        axes.plot([], [], "o", color=f"C{place}", label=f"{100 * goal:g} % zeros")
    dense = [100 * row["test"] for row in found.get("dense", {}).get(0.0, [])]
    if dense:
        axes.axvline(statistics.mean(dense), color="grey", linewidth=1, label="dense")
    axes.set_yticks(range(len(names)), names)
    # Methods that collapse would flatten all that matters.
    axes.set_xlim(max(best - 12, worst - 0.5, 0), best + 0.5)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("test accuracy, %; a bar is the mean of the seeds")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(goals) + 1, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
