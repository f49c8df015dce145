"""Which inputs survive: a heat map of connections per pixel for images, bars for other features."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from isogrid.report import wording
from isogrid.report.data import InputUse
from isogrid.report.figures.canvas import HEAT_LEVELS, Canvas, canvas, ink, note

# A finer picture or more bars than this would not be seen, and would make the page heavy.
LARGEST_SIDE = 64
MOST_BARS = 300

_Counts = npt.NDArray[np.float64]


def input_use(use: InputUse, width: int) -> str:
    """Draw the surviving connections of each input feature; pixels and features too many to see are averaged."""
    counts = np.asarray(use.counts, dtype=np.float64)
    label = f"{wording.whole(use.unused)} of {wording.whole(len(counts))} inputs have no surviving connection."
    if use.shape is None:
        return _bars(counts, width, label)
    return _heat_map(pooled(counts.reshape(use.shape)), width, label)


def pooled(image: _Counts) -> _Counts:
    """Average neighbouring pixels of ``image`` [height, width] until no side is longer than LARGEST_SIDE.

    >>> import numpy as np
    >>> pooled(np.ones((100, 8))).shape
    (50, 8)
    """
    for axis in (0, 1):
        step = math.ceil(image.shape[axis] / LARGEST_SIDE)
        starts = np.arange(0, image.shape[axis], step)
        sums = np.add.reduceat(image, starts, axis=axis)
        lengths = np.diff([*starts, image.shape[axis]])
        image = sums / (lengths[:, None] if axis == 0 else lengths)
    return image


def levels(image: _Counts) -> npt.NDArray[np.int64]:
    """Return the heat level of each count: 0 for no connection, then equal steps up to the largest count.

    >>> import numpy as np
    >>> levels(np.array([[0.0, 1.0, 70.0]]))
    array([[0, 1, 7]])
    """
    top = max(float(image.max()), 1.0)
    return np.ceil(image / top * (HEAT_LEVELS - 1)).astype(np.int64)


def _heat_map(image: _Counts, width: int, label: str) -> str:
    rows, columns = image.shape
    side = min(width / columns, 360 / rows)
    key_height = 44
    with canvas(width, round(side * rows) + key_height) as sheet:
        axes = sheet.axes(left=0, top=0, right=width - side * columns, bottom=key_height)
        axes.set_axis_off()
        axes.set_xlim(0, columns)
        axes.set_ylim(rows, 0)
        heat = levels(image)
        for level in range(HEAT_LEVELS):
            # Each level is painted over the next paler one, so that no seam between cells shines through.
            if (heat >= level).any():
                axes.add_patch(PathPatch(_cells(heat >= level), facecolor=ink(f"heat-{level}"), linewidth=0))
        _draw_key(sheet, float(image.max()))
        return sheet.svg(f"inputs-{width}", label)


def _cells(member: npt.NDArray[np.bool_]) -> Path:
    """Return one path of all member cells, a rectangle for each horizontal run: far smaller than a shape a cell."""
    rectangles = []
    for y, row in enumerate(member):
        borders = np.flatnonzero(np.diff(np.concatenate(([False], row, [False])).astype(np.int8)))
        rectangles += [(start, end, y) for start, end in borders.reshape(-1, 2)]
    vertices = [
        corner
        for start, end, y in rectangles
        for corner in ((start, y), (end, y), (end, y + 1), (start, y + 1), (start, y))
    ]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(rectangles)
    return Path(vertices, codes)


def _draw_key(sheet: Canvas, top: float) -> None:
    axes = sheet.axes(left=0, top=sheet.height - 32, right=max(0, sheet.width - 240), bottom=22)
    axes.set_axis_off()
    axes.set_xlim(0, HEAT_LEVELS)
    axes.set_ylim(0, 1)
    for level in range(HEAT_LEVELS):
        axes.axvspan(level, level + 1, color=ink(f"heat-{level}"), linewidth=0)
    note(axes, "none", (0, 0), (0, -4), va="top")
    note(axes, f"{top:,.4g} connections", (HEAT_LEVELS, 0), (0, -4), ha="right", va="top")


def _bars(counts: _Counts, width: int, label: str) -> str:
    step = math.ceil(len(counts) / MOST_BARS)
    starts = np.arange(0, len(counts), step)
    heights = np.add.reduceat(counts, starts) / np.diff([*starts, len(counts)])
    edges = np.array([*starts, len(counts)], dtype=np.float64) - 0.5
    with canvas(width, 240) as sheet:
        axes = sheet.axes(left=46, top=26, right=8, bottom=40)
        axes.set_xlim(edges[0], edges[-1])
        if len(heights) <= width / 8:
            axes.bar(
                (edges[:-1] + edges[1:]) / 2,
                heights,
                width=0.72 * step,
                color=ink("accent"),
                linewidth=0,
            )
        else:
            axes.stairs(heights, edges, fill=True, color=ink("accent"), linewidth=0)
        axes.set_ylim(0, max(1.0, 1.05 * float(heights.max())))
        axes.locator_params(axis="both", nbins=5, integer=True)
        axes.grid(axis="y")
        axes.set_xlabel("input feature", labelpad=4)
        sheet.heading("surviving connections")
        return sheet.svg(f"inputs-{width}", label)
