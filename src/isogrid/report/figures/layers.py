"""What happened inside the layers: how sparse each one became, and its weights before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isogrid.report import wording
from isogrid.report.data import Histogram, LayerRow, ReportData
from isogrid.report.figures.canvas import TEXT, Canvas, canvas, ink, note
from isogrid.report.figures.depth import depth_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More layers than this are drawn as a profile over depth, without their names.
NAMED_LAYERS = 24

_ROW = 26


def layer_sparsity(data: ReportData, width: int) -> str:
    """Draw the sparsity of each layer, in the model's order, beside that of all targets together."""
    layers = data.layers
    overall = wording.share(data.balance.sparsity)
    label = f"Sparsity of {len(layers)} layers; all targets together are {overall} sparse."
    named = len(layers) <= NAMED_LAYERS
    with canvas(width, 52 + _ROW * len(layers) if named else 260) as sheet:
        (_draw_rows if named else _draw_profile)(sheet, data)
        return sheet.svg(f"layers-{width}", label)


def weight_histogram(layer: LayerRow, key: str, width: int) -> str:
    """Draw the layer's weights before (upwards) and after (downwards), each half scaled to its own tallest bar."""
    before, after = layer.dense_histogram, layer.sparse_histogram
    reach = max(abs(edge) for part in (before, after) for edge in (part.edges[0], part.edges[-1]))
    with canvas(width, 118) as sheet:
        axes = sheet.axes(left=6, top=4, right=6, bottom=22)
        axes.set_xlim(-1.02 * reach, 1.02 * reach)
        axes.set_ylim(-1.08, 1.08)
        axes.spines["bottom"].set_visible(False)
        _draw_half(axes, before, 1, "dense")
        _draw_half(axes, after, -1, "accent")
        axes.axhline(0, color=ink("muted"), linewidth=0.8)
        axes.set_yticks([])
        axes.set_xticks([-reach, 0, reach], [f"\N{MINUS SIGN}{reach:.2g}", "0", f"{reach:.2g}"])
        axes.tick_params(axis="x", length=0, pad=2)
        first, _, last = axes.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
        name = wording.one_line(layer.name)
        counts = f"{wording.whole(before.total)} weights before, {wording.whole(after.total)} after"
        return sheet.svg(key, f"Weights of {name}: {counts}, from {-reach:.2g} to {reach:.2g}.")


def _draw_half(axes: Axes, histogram: Histogram, direction: int, colour: str) -> None:
    heights = np.asarray(histogram.counts, dtype=np.float64) / np.diff(np.asarray(histogram.edges, dtype=np.float64))
    heights *= direction / max(heights.max(), 1e-300)
    axes.stairs(heights, np.asarray(histogram.edges), fill=True, color=ink(colour), linewidth=0)


def _draw_rows(sheet: Canvas, data: ReportData) -> None:
    layers = data.layers
    names = wording.short_names([layer.name for layer in layers], int(sheet.width * 0.36 / 7.5))
    margin = 16 + 7.5 * max(map(len, names))
    axes = sheet.axes(left=margin, top=8, right=60, bottom=44)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.barh(
        range(len(layers)),
        [1.0] * len(layers),
        height=0.5,
        color=ink("band"),
        linewidth=0,
    )
    axes.barh(
        range(len(layers)),
        [layer.sparsity for layer in layers],
        height=0.5,
        color=ink("accent"),
        linewidth=0,
    )
    axes.set_yticks(range(len(layers)), names)
    axes.tick_params(axis="y", pad=8, labelcolor=ink("ink"), labelsize=TEXT)
    for row, layer in enumerate(layers):
        note(axes, wording.share(layer.sparsity), (1, row), (6, 0), colour="ink", va="center_baseline")
    axes.set_xticks([0, 0.5, 1], ["0", "50", "100"])
    axes.set_xlabel("sparsity, %", labelpad=4)
    axes.axvline(data.balance.sparsity, color=ink("ink"), linewidth=1.2, dashes=(2, 2))


def _draw_profile(sheet: Canvas, data: ReportData) -> None:
    axes, edges = depth_axes(sheet, len(data.layers), "sparsity, %")
    sparsities = [layer.sparsity for layer in data.layers]
    axes.stairs(sparsities, edges, fill=True, color=ink("accent"), alpha=0.2, linewidth=0)
    axes.stairs(sparsities, edges, baseline=None, color=ink("accent"), linewidth=1.6)
    axes.axhline(data.balance.sparsity, color=ink("ink"), linewidth=1.2, dashes=(2, 2))
