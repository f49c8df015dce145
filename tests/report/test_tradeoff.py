"""The curves of a report: their ticks say where they stand, and fit."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from isogrid.report.data import Floor, ReportData
from isogrid.report.figures.tradeoff import bytes_curve, sparsity_curve

WIDTH = 470


def texts(svg: str) -> list[tuple[float, str]]:
    """Each text of a drawing with the place of its middle or edge."""
    found = re.findall(r'<text[^>]*?(?: x="([-\d.]+)"|translate\(([-\d.]+) )[^>]*>([^<]*)</text>', svg)
    return [(float(x or moved), text) for x, moved, text in found]


def between(report: ReportData, low: float, high: float) -> ReportData:
    """The report with its metrics in that range."""
    old = [point.metric for point in report.points]
    scaled = low + (np.array(old) - min(old)) * (high - low) / (max(old) - min(old))
    points = [replace(point, metric=float(metric)) for point, metric in zip(report.points, scaled, strict=True)]
    return replace(report, points=points, floor=Floor("0.5pt", low + 0.2 * (high - low), high))


@pytest.mark.parametrize(
    ("low", "high"), [(0.9319, 0.9383), (0.5, 0.99), (0.93, 0.9301), (0.9, 0.92), (0.6, 0.66), (0.0, 1.0)]
)
def test_the_ticks_of_the_metric_lie_evenly_as_they_are_written(digits: ReportData, low: float, high: float) -> None:
    svg = sparsity_curve(between(digits, low, high), WIDTH)
    written = [float(text) for x, text in texts(svg) if x < 50 and re.fullmatch(r"[\d.]+", text)]
    assert len(written) >= 3
    assert np.allclose(np.diff(written), written[1] - written[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("smallest", range(90_000, 120_000, 2_000))
def test_no_tick_is_cut_off_at_the_right(digits: ReportData, smallest: int) -> None:
    sizes = np.geomspace(4_400_000, smallest, len(digits.points)).astype(int)
    points = [replace(point, bytes=int(size)) for point, size in zip(digits.points, sizes, strict=True)]
    svg = bytes_curve(replace(digits, points=points), WIDTH)
    ticks = [(x, text) for x, text in texts(svg) if re.fullmatch(r"[\d.]+ [kM]?B", text)]
    assert ticks
    assert all(x + 3 * len(text) <= WIDTH for x, text in ticks)
