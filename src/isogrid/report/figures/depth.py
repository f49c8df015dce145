"""The axes of a profile over depth: one step a layer, for models with too many layers to name each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from isogrid.report.figures.canvas import Canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def depth_axes(sheet: Canvas, layers: int, heading: str) -> tuple[Axes, npt.NDArray[np.float64]]:
    """Return axes from 0 to 1, labelled in per cent, and the ``layers + 1`` edges between the layers' steps."""
    axes = sheet.axes(left=40, top=30, right=10, bottom=44)
    edges = np.arange(layers + 1, dtype=np.float64) + 0.5
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "50", "100"])
    axes.grid(axis="y")
    axes.set_xlabel("layer, from the input to the output", labelpad=4)
    sheet.heading(heading)
    return axes, edges
