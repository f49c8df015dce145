"""The figures of a report: each function gives one inline SVG whose colours are CSS custom properties.

Every function takes the width in CSS pixels that the figure is drawn for, so that letters keep their size on a narrow
and on a wide screen; the page holds both drawings and shows the one that fits.
"""

from __future__ import annotations

from isogrid.report.figures.inputs import input_use
from isogrid.report.figures.layers import layer_sparsity, weight_histogram
from isogrid.report.figures.overlay import MOST as MOST_CURVES
from isogrid.report.figures.overlay import mark as curve_mark
from isogrid.report.figures.overlay import overlay
from isogrid.report.figures.pairs import (
    activation_sparsity,
    class_metric,
    generalisation,
)
from isogrid.report.figures.sensitivity import sensitivity_map
from isogrid.report.figures.thumbnail import thumbnail
from isogrid.report.figures.tradeoff import below, bytes_curve, sparsity_curve
from isogrid.report.figures.training import training_history
from isogrid.report.figures.verdict import drop_interval

__all__ = [
    "MOST_CURVES",
    "activation_sparsity",
    "below",
    "bytes_curve",
    "class_metric",
    "curve_mark",
    "drop_interval",
    "generalisation",
    "input_use",
    "layer_sparsity",
    "overlay",
    "sensitivity_map",
    "sparsity_curve",
    "thumbnail",
    "training_history",
    "weight_histogram",
]
