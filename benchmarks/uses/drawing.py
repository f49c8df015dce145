"""Finished runs of one use as a drawing: how the metric fell on the way, and what came of it on the test split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from isogrid.report.data import ReportData
from isogrid.report.figures.tradeoff import density_place, sparsity_ticks
from isogrid.units import size


def draw(names: Sequence[str], reports: Sequence[ReportData], path: Path) -> None:
    """Write the drawing; the runs are of one metric.  Up is better in both halves, whatever the metric's direction."""
    metric = reports[0].metric
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.6), layout="constrained", width_ratios=(3, 2))
    _tradeoff(left, names, reports)
    _outcome(right, reports)
    unit = f"{metric.name}, %" if metric.percent else metric.name
    for axes, split in ((left, "validation"), (right, "test")):
        axes.set_ylabel(f"{unit}, {split} split")
        axes.grid(axis="y", alpha=0.3)
        if not metric.higher_is_better:
            axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(reports) + 2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _tradeoff(axes: Axes, names: Sequence[str], reports: Sequence[ReportData]) -> None:
    """Each point that a run measured; the ringed one is its balance point, the dashed line its floor."""
    scale = 100 if reports[0].metric.percent else 1
    ends = []
    for place, (name, report) in enumerate(zip(names, reports, strict=True)):
        colour = f"C{place}"
        points = sorted((point for point in report.points if point.sparsity < 1), key=lambda point: point.sparsity)
        across = [density_place(1 - point.sparsity) for point in points]
        ends += across
        axes.plot(across, [scale * point.metric for point in points], "o", color=colour, markersize=4, label=name)
        axes.axhline(scale * report.floor.limit, color=colour, linewidth=1, linestyle="--", alpha=0.7)
        chosen = report.chosen
        if chosen is not None and chosen.sparsity < 1:
            axes.plot(
                density_place(1 - chosen.sparsity), scale * chosen.metric, "o", markersize=13, markerfacecolor="none",
                markeredgecolor=colour, markeredgewidth=1.6,
            )  # fmt: skip
    axes.plot([], [], "--", color="grey", label="floor")
    axes.plot([], [], "o", color="grey", markersize=11, markerfacecolor="none", label="balance point")
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    axes.set_xlim(low - 0.08, high + 0.08)
    kept = sparsity_ticks(*axes.get_xlim())
    axes.set_xticks([place for place, _ in kept], [text for _, text in kept])
    axes.set_xlabel("sparsity of the targets, %")


def _outcome(axes: Axes, reports: Sequence[ReportData]) -> None:
    """From the dense model to the balance point, a line a run."""
    scale = 100 if reports[0].metric.percent else 1
    for place, report in enumerate(reports):
        pair = [report.dense.test_metric, report.balance.test_metric]
        values = [math.nan if value is None else scale * value for value in pair]
        axes.plot([0, 1], values, "o-", color=f"C{place}", linewidth=1.4)
    # A drop within what is allowed must not look like a fall.
    low, high = axes.get_ylim()
    room = max(4 * scale * max(abs(report.floor.baseline - report.floor.limit) for report in reports) - (high - low), 0)
    axes.set_ylim(low - room / 2, high + room / 2)
    before = sum(report.dense.bytes for report in reports) / len(reports)
    after = sum(report.balance.bytes for report in reports) / len(reports)
    axes.set_xlim(-0.35, 1.35)
    axes.set_xticks([0, 1], [f"dense\n{size(round(before))}", f"sparse\n{size(round(after))}"])
