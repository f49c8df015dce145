"""Two values a row, dense and sparse, joined by a line: activations, classes, and the train/validation gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isogrid.report import wording
from isogrid.report.data import ModelSummary, ReportData
from isogrid.report.figures.canvas import TEXT, Canvas, canvas, ink, note
from isogrid.report.figures.depth import depth_axes
from isogrid.report.selection import most_changed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More rows than this are thinned out: activations to a profile over depth, classes to those that changed most.
NAMED_ROWS = 24

_ROW = 26


@dataclass(frozen=True)
class _Pair:
    name: str
    dense: float
    sparse: float
    text: str


def activation_sparsity(data: ReportData, width: int) -> str:
    """Draw the share of each layer's outputs that are exactly zero, dense and sparse."""
    rows = data.activations
    label = f"Activation sparsity of {len(rows)} layers, dense and sparse."
    if len(rows) > NAMED_ROWS:
        with canvas(width, 260) as sheet:
            _draw_profile(
                sheet,
                [row.dense_sparsity for row in rows],
                [row.sparse_sparsity for row in rows],
            )
            return sheet.svg(f"activations-{width}", label)
    pairs = [
        _Pair(
            row.layer,
            row.dense_sparsity,
            row.sparse_sparsity,
            wording.share(row.sparse_sparsity),
        )
        for row in rows
    ]
    with canvas(width, 44 + _ROW * len(pairs)) as sheet:
        axes = _draw_pairs(sheet, pairs)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100"])
        axes.set_xlabel("outputs that are zero, %", labelpad=4)
        return sheet.svg(f"activations-{width}", label)


def class_metric(data: ReportData, width: int) -> str:
    """Draw the metric of each class on the test split, dense and sparse."""
    rows, metric = most_changed(data.classes, NAMED_ROWS), data.metric
    written = wording.scale(data)
    pairs = [_Pair(row.name, row.dense, row.sparse, written.value(row.sparse)) for row in rows]
    with canvas(width, 44 + _ROW * len(pairs)) as sheet:
        axes = _draw_pairs(sheet, pairs)
        _metric_scale(axes, data, f"{wording.one_line(metric.name, 30)} on the test split")
        return sheet.svg(
            f"classes-{width}",
            f"{metric.name} of {len(rows)} classes on the test split, dense and sparse.",
        )


def generalisation(data: ReportData, width: int) -> str:
    """Draw the metric on the training and on the validation split, dense and sparse: the gap is the overfitting."""
    with canvas(width, 44 + 40 * 2) as sheet:
        axes = sheet.axes(left=112, top=8, right=12, bottom=44)
        axes.set_ylim(1.6, -0.6)
        axes.set_yticks([0, 1], ["dense", "balance point"])
        axes.tick_params(axis="y", pad=8, labelcolor=ink("ink"), labelsize=TEXT)
        for row, (model, colour) in enumerate(((data.dense, "dense"), (data.balance, "accent"))):
            _draw_gap(axes, row, model, colour)
        _metric_scale(axes, data, wording.one_line(data.metric.name, 30))
        parts = (
            _gap_text(data, "dense", data.dense),
            _gap_text(data, "balance point", data.balance),
        )
        return sheet.svg(
            f"gap-{width}",
            f"{data.metric.name} on training and validation data: {'; '.join(parts)}.",
        )


def _draw_gap(axes: Axes, row: int, model: ModelSummary, colour: str) -> None:
    validation, train = model.validation_metric, model.train_metric
    if train is not None:
        axes.plot([validation, train], [row, row], color=ink(colour), linewidth=3, alpha=0.4)
        axes.plot(
            [train],
            [row],
            "o",
            markersize=9,
            color=ink("paper"),
            markeredgecolor=ink(colour),
            markeredgewidth=2,
        )
    axes.plot([validation], [row], "o", markersize=10, color=ink(colour))


def _gap_text(data: ReportData, name: str, model: ModelSummary) -> str:
    written = wording.scale(data)
    validation = written.value(model.validation_metric)
    train = "unknown" if model.train_metric is None else written.value(model.train_metric)
    return f"{name} {train} and {validation}"


def _draw_pairs(sheet: Canvas, pairs: Sequence[_Pair]) -> Axes:
    names = wording.short_names([pair.name for pair in pairs], int(sheet.width * 0.32 / 7.5))
    margin = 16 + 7.5 * max(map(len, names))
    axes = sheet.axes(left=margin, top=4, right=74, bottom=40)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    rows = range(len(pairs))
    dense, sparse = [pair.dense for pair in pairs], [pair.sparse for pair in pairs]
    axes.hlines(rows, dense, sparse, color=ink("accent"), linewidth=3, alpha=0.4)
    axes.plot(
        dense,
        rows,
        "o",
        markersize=11,
        color=ink("paper"),
        markeredgecolor=ink("dense"),
        markeredgewidth=2,
    )
    axes.plot(
        sparse,
        rows,
        "o",
        markersize=9,
        color=ink("accent"),
        markeredgecolor=ink("paper"),
    )
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", pad=8, labelcolor=ink("ink"), labelsize=TEXT)
    axes.grid(axis="y")
    for row, pair in enumerate(pairs):
        space = ("axes fraction", "data")
        note(axes, pair.text, (1, row), (8, 0), space=space, colour="ink", va="center_baseline")
    return axes


def _metric_scale(axes: Axes, data: ReportData, title: str) -> None:
    axes.margins(x=0.06)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="x")
    if data.metric.percent:
        axes.xaxis.set_major_formatter(lambda number, _: f"{100 * number:.4g}")
        title = f"{title}, %"
    axes.set_xlabel(title, labelpad=4)


def _draw_profile(sheet: Canvas, dense: Sequence[float], sparse: Sequence[float]) -> None:
    axes, edges = depth_axes(sheet, len(dense), "outputs that are zero, %")
    axes.stairs(dense, edges, baseline=None, color=ink("dense"), linewidth=1.6)
    axes.stairs(sparse, edges, baseline=None, color=ink("accent"), linewidth=1.6)
