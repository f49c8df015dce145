"""A map of layers against sparsities: how much the metric loses where one layer alone is pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.patches import Rectangle

from isogrid.report import wording
from isogrid.report.figures.canvas import HEAT_LEVELS, SMALL, canvas, ink

if TYPE_CHECKING:
    from isogrid.sparsify.sensitivity import Sensitivity

_ROW = 22
_CELL, _WIDEST = 46, 90


def sensitivity_map(found: Sensitivity, width: int) -> str:
    """Draw a cell for each layer and sparsity, darker for a greater loss, with the loss written into it."""
    columns = len(found.sparsities)
    names = wording.short_names(list(found.layers), max(10, (width - _CELL * columns) // 8))
    left = 16 + 8 * max(map(len, names), default=0)
    drops = {name: [found.drop(name, sparsity) for sparsity in found.sparsities] for name in found.layers}
    worst = max((max(row) for row in drops.values()), default=0.0)
    scale = 100.0 if found.metric.percent else 1.0
    with canvas(width, _ROW * len(drops) + 64) as sheet:
        axes = sheet.axes(left=left, top=44, right=max(8, width - left - _WIDEST * columns), bottom=20)
        axes.set_xlim(0, columns)
        axes.set_ylim(len(drops), 0)
        axes.spines["bottom"].set_visible(False)
        axes.xaxis.tick_top()
        axes.set_xticks([x + 0.5 for x in range(columns)], [f"{100 * s:.4g}" for s in found.sparsities])
        axes.set_yticks([y + 0.5 for y in range(len(drops))], names)
        for y, row in enumerate(drops.values()):
            for x, drop in enumerate(row):
                level = (
                    0 if worst <= 0 or drop <= 0 else min(HEAT_LEVELS - 1, 1 + int((HEAT_LEVELS - 2) * drop / worst))
                )
                axes.add_patch(_cell(x, y, ink(f"heat-{level}")))
                dark = level > HEAT_LEVELS // 2
                axes.text(
                    x + 0.5, y + 0.5, f"{scale * drop:.3g}", ha="center", va="center", fontsize=SMALL,
                    color=ink("paper" if dark else "ink"),
                )  # fmt: skip
        unit = "points" if found.metric.percent else found.metric.unit
        sheet.heading(f"{wording.one_line(found.metric.name, 24)} lost ({unit}) at % of the layer's weights zero")
        label = f"Loss of {found.metric.name} for {len(drops)} layers pruned alone at {columns} sparsities"
        return sheet.svg(f"sensitivity-{width}", label)


def _cell(x: int, y: int, colour: str) -> Rectangle:
    return Rectangle((x + 0.02, y + 0.04), 0.96, 0.92, facecolor=colour, linewidth=0)
