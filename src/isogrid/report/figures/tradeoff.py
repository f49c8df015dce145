"""The trade-off curve: the metric against sparsity, and against bytes.

In both, right is smaller and up is better, whatever the metric's direction: the balance point is the rightmost point
that stays above the floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from isogrid.metrics import Metric
from isogrid.report import wording
from isogrid.report.data import Point, ReportData
from isogrid.report.figures.canvas import TEXT, Canvas, canvas, ink, note
from isogrid.units import size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = {"fp32": "o", "fp16": "s", "int8": "^"}

_SPARSITY_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999, 0.99999)
# Points this many times deeper below the floor than the floor lies below the best point are only pointed at.
_DEPTH = 3.0
# The axes reach at least this far below the floor, which leaves room for the balance point's label.
_ROOM = 1.4

_LEFT, _TOP, _RIGHT, _BOTTOM = 50, 34, 14, 44
_HALF_LETTER = 3.0
"""Of a tick's text, in pixels: half of what a letter takes, generously."""


def sparsity_curve(data: ReportData, width: int) -> str:
    """Draw the validation metric against the sparsity of the targets, each halving of the density taking equal room."""
    densities = [1 - point.sparsity for point in data.points if point.sparsity < 1]
    least = min(densities, default=1.0) / 2

    def place(point: Point) -> float:
        return density_place(max(1 - point.sparsity, least))

    with canvas(width, _height(width)) as sheet:
        return _curve(sheet, data, place, sparsity_ticks(), "sparsity of the targets, %", "sparsity")


def density_place(density: float) -> float:
    """Where a density above 0 stands on an axis on which each of its halvings takes equal room."""
    return -math.log10(density)


def sparsity_ticks(left: float = -math.inf, right: float = math.inf) -> list[tuple[float, str]]:
    """The ticks of such an axis from place ``left`` to ``right``, each with its text in per cent."""
    ticks = [(density_place(1 - tick), f"{100 * tick:g}") for tick in _SPARSITY_TICKS]
    return [(place, text) for place, text in ticks if left <= place <= right]


def bytes_curve(data: ReportData, width: int) -> str:
    """Draw the validation metric against the file's bytes, on a logarithmic scale that falls to the right."""
    sizes = [max(point.bytes, 1) for point in data.points] or [1]
    decades = range(math.floor(math.log10(min(sizes))), math.ceil(math.log10(max(sizes))) + 1)
    marks = [step * 10**decade for decade in decades for step in (1, 2, 5)]
    ticks = [(-math.log10(mark), size(mark).replace(".0 ", " ")) for mark in reversed(marks)]
    with canvas(width, _height(width)) as sheet:
        return _curve(
            sheet,
            data,
            lambda point: -math.log10(max(point.bytes, 1)),
            ticks,
            "size of the file",
            "bytes",
        )


def below(data: ReportData) -> int:
    """Return how many points lie so deep below the floor that the curves only point at them."""
    return len(_window(data)[2])


def envelope(points: Sequence[Point], place: Callable[[Point], float], metric: Metric) -> list[tuple[float, float]]:
    """Return, from right to left, the corners (place, metric) of the best metric at each place or further right."""
    better = max if metric.higher_is_better else min
    corners: list[tuple[float, float]] = []
    for point in sorted(points, key=place, reverse=True):
        best = better(corners[-1][1], point.metric) if corners else point.metric
        corners.append((place(point), best))
    return corners


def _height(width: int) -> int:
    return round(max(270.0, width * 0.66))


def _curve(
    sheet: Canvas,
    data: ReportData,
    place: Callable[[Point], float],
    ticks: Sequence[tuple[float, str]],
    title: str,
    key: str,
) -> str:
    metric = data.metric
    worst, best, deep = _window(data)
    places = [place(point) for point in data.points] or [0.0]
    spare = 0.04 * (max(places) - min(places)) or 0.1
    axes = sheet.axes(left=_LEFT, top=_TOP, right=_RIGHT, bottom=_BOTTOM)
    axes.set_xlim(min(places) - spare, max(places) + spare)
    axes.set_ylim(worst, best)
    _draw_scales(sheet, axes, data, ticks, title)
    _draw_floor(axes, data)
    corners = envelope(
        [point for point in data.points if point.on_frontier and point not in deep],
        place,
        metric,
    )
    if corners:
        axes.step(
            *zip(*corners, strict=True),
            where="post",
            color=ink("ink"),
            alpha=0.2,
            linewidth=7,
            zorder=1.5,
        )
    tips = _draw_points(axes, data, place, deep)
    if data.chosen is not None and data.chosen not in deep:
        drawn = [point for point in data.points if point not in deep]
        _draw_balance_point(sheet, axes, data.chosen, drawn, place)
    label = f"{metric.name} on the validation split against {title.partition(',')[0]}; {_summary(data)}"
    return sheet.svg(f"{key}-{sheet.width}", label, tips)


def _window(data: ReportData) -> tuple[float, float, list[Point]]:
    """Return the metric at the bottom and at the top of the axes, and the points too deep below the floor to fit."""
    sign = 1 if data.metric.higher_is_better else -1
    heights = [sign * point.metric for point in data.points]
    top = max([*heights, sign * data.floor.baseline, sign * data.floor.limit])
    limit = sign * data.floor.limit
    # A floor as high as the best point would leave no scale, so the spread of the points gives one.
    reach = max(top - limit, 0.01 * (top - min([*heights, limit])), 1e-6 * max(1.0, abs(top)))
    bottom = max(min([*heights, limit - _ROOM * reach]), limit - _DEPTH * reach)
    deep = [point for point, height in zip(data.points, heights, strict=True) if height < bottom]
    room = 0.08 * (top - bottom)
    return sign * (bottom - room), sign * (top + room), deep


def _draw_scales(
    sheet: Canvas,
    axes: Axes,
    data: ReportData,
    ticks: Sequence[tuple[float, str]],
    title: str,
) -> None:
    left, right = axes.get_xlim()
    pixels = (sheet.width - _LEFT - _RIGHT) / (right - left)
    shown: list[tuple[float, str]] = []
    for tick, text in reversed([tick for tick in ticks if left <= tick[0] <= right]):
        if (right - tick) * pixels + _RIGHT < _HALF_LETTER * len(text):
            continue  # it would not fit beside the axes
        needed = 4.5 * (len(text) + len(shown[-1][1])) + 8 if shown else 0.0
        if not shown or (shown[-1][0] - tick) * pixels >= needed:
            shown.append((tick, text))
    axes.set_xticks([tick for tick, _ in shown], [text for _, text in shown])
    axes.set_xlabel(title, labelpad=6)
    axes.locator_params(axis="y", nbins=6)
    axes.yaxis.set_major_formatter(lambda number, _: _tick_text(axes, data.metric, number))
    axes.grid(axis="y")
    unit = "%" if data.metric.percent else ("" if data.metric.unit == "pt" else data.metric.unit)
    better = "" if data.metric.higher_is_better else "lower is better, drawn upwards"
    name = wording.one_line(data.metric.name, 28)
    heading = ", ".join(part for part in (name, unit, better) if part)
    sheet.heading(heading)


def _tick_text(axes: Axes, metric: Metric, number: float) -> str:
    ticks = axes.get_yticks()
    step = min((abs(b - a) for a, b in pairwise(ticks)), default=1.0) * (100 if metric.percent else 1)
    shown = 100 * number if metric.percent else number
    if abs(shown) >= 1e6 or 0 < step < 1e-5:
        return f"{shown:.2e}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if abs(step - round(step, digits)) > 1e-3 * step:
        digits += 1  # steps of 2.5
    return f"{shown + 0.0:.{digits}f}"


def _draw_floor(axes: Axes, data: ReportData) -> None:
    limit, baseline = data.floor.limit, data.floor.baseline
    axes.axhspan(axes.get_ylim()[0], limit, color=ink("band"), linewidth=0, zorder=0)
    axes.axhline(baseline, color=ink("dense"), linewidth=1.2, zorder=1)
    axes.axhline(limit, color=ink("ink"), linewidth=1.2, dashes=(5, 3), zorder=1)
    # The curves begin at the left near the dense model and fall at the right, which leaves room for words.
    written = wording.scale(data)
    space = ("axes fraction", "data")
    note(axes, f"dense {written.value(baseline)}", (1, baseline), (0, 4), space=space, ha="right", va="bottom")
    note(axes, f"floor {written.value(limit)}", (0, limit), (6, -5), space=space, colour="ink", va="top")


def _draw_points(
    axes: Axes, data: ReportData, place: Callable[[Point], float], deep: Sequence[Point]
) -> dict[str, list[str]]:
    tips: dict[str, list[str]] = {}
    scale = wording.scale(data)
    area = 44.0 if len(data.points) <= 60 else 12.0
    for precision, marker in _MARKERS.items():
        line = sorted(
            (point for point in data.points if point.precision == precision),
            key=lambda p: (place(p), p.rung),
        )
        if not line:
            continue
        axes.plot(
            [place(point) for point in line],
            [point.metric for point in line],
            color=ink(precision),
            linewidth=1.2,
            alpha=0.55,
            zorder=2,
        )
        seen = [point for point in line if point not in deep]
        if seen:
            gid = f"tips-{precision}"
            axes.scatter(
                [place(point) for point in seen],
                [point.metric for point in seen],
                s=area,
                marker=marker,
                color=ink(precision),
                edgecolors=ink("paper"),
                linewidths=0.8,
                zorder=3,
                gid=gid,
            )
            tips[gid] = [_tip(scale, point) for point in seen]
    if deep:
        bottom = axes.get_ylim()[0]
        axes.plot(
            [place(point) for point in deep],
            [bottom] * len(deep),
            linestyle="none",
            marker="v",
            markersize=5,
            color=ink("muted"),
            alpha=0.6,
            markeredgewidth=0,
            clip_on=False,
            zorder=3,
        )
    return tips


def _draw_balance_point(
    sheet: Canvas, axes: Axes, chosen: Point, drawn: Sequence[Point], place: Callable[[Point], float]
) -> None:
    x, y = place(chosen), chosen.metric
    axes.plot([x], [y], "o", markersize=17, markerfacecolor="none", markeredgecolor=ink("accent"), markeredgewidth=2)
    lines = ("balance point", f"{wording.share(chosen.sparsity)}, {chosen.precision}", size(chosen.bytes))
    wide, tall = 8.4 * max(map(len, lines)), 1.3 * TEXT * len(lines)
    ring = _pixels(sheet, axes, x, y)
    markers = [_pixels(sheet, axes, place(point), point.metric) for point in drawn]
    start, middle = _label_place(ring, (wide, tall), markers, sheet.height - _TOP - _BOTTOM)
    offset = ring[0]
    beside = start + wide < offset
    note(
        axes,
        "\n".join(lines),
        (x, y),
        (start - offset, middle - ring[1]),
        colour="accent",
        va="center",
        fontsize=TEXT,
        fontweight="bold",
        linespacing=1.3,
        zorder=5,
        multialignment="right" if beside else "left",
        arrowprops={
            "arrowstyle": "-",
            "color": ink("accent"),
            "linewidth": 1.2,
            "shrinkA": 2,
            "shrinkB": 8,
            "relpos": (1.0, 0.5) if beside else (0.2, 1.0),
        },
    )


def _pixels(sheet: Canvas, axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Where a point lies, in pixels from the lower left corner of the axes."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    across, up = (x - left) / (right - left), (y - bottom) / (top - bottom)
    return across * (sheet.width - _LEFT - _RIGHT), up * (sheet.height - _TOP - _BOTTOM)


def _label_place(
    ring: tuple[float, float], size: tuple[float, float], markers: Sequence[tuple[float, float]], height: float
) -> tuple[float, float]:
    """Return the left end and the middle of a label of ``size`` near ``ring`` that covers the fewest markers.

    Left of the ring and below it there is room, for the curves come from above; the label does not leave the axes.

    >>> _label_place((300, 150), (100, 40), [(220, 80), (40, 150)], 200)
    (104, 80)
    """
    wide, tall = size
    places = [
        (max(4, ring[0] - away - wide), ring[1] - drop)
        for drop in (70, 90, 110, 130, 50)
        for away in (26, 56, 96, 146)
        if ring[1] - drop - tall / 2 >= 4
    ] or [(max(4, ring[0] - 26 - wide), min(max(ring[1] - 70, tall / 2 + 4), height - tall / 2))]

    def covered(spot: tuple[float, float]) -> int:
        return sum(spot[0] - 6 <= x <= spot[0] + wide + 6 and abs(y - spot[1]) <= tall / 2 + 6 for x, y in markers)

    return min(places, key=covered)


def _tip(scale: wording.Scale, point: Point) -> str:
    parts = (
        scale.value(point.metric),
        f"{wording.share(point.sparsity)} sparse",
        point.precision,
    )
    return ", ".join((*parts, size(point.bytes)))


def _summary(data: ReportData) -> str:
    scale = wording.scale(data)
    floor = f"the floor is {scale.value(data.floor.limit)}"
    if data.chosen is None:
        return f"{floor} and no point was chosen."
    return f"{floor} and the balance point is {_tip(scale, data.chosen)}."
