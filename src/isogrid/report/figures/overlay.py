"""The trade-off curves of several runs in one drawing."""

from __future__ import annotations

from collections.abc import Sequence

from isogrid.report import wording
from isogrid.report.comparison import ComparedRun
from isogrid.report.figures.canvas import canvas, ink, note
from isogrid.report.figures.tradeoff import density_place, envelope, sparsity_ticks

MOST = 8
"""How many curves can be told apart."""

_STYLES = (
    ("accent", "-", "o"), ("fp32", "-", "s"), ("int8", "-", "^"), ("fp16", "-", "D"),
    ("accent", "--", "v"), ("fp32", "--", "P"), ("int8", "--", "X"), ("fp16", "--", "*"),
)  # fmt: skip


def overlay(runs: Sequence[ComparedRun], width: int) -> str:
    """Draw the best validation metric at each sparsity or above, a curve a run, up is better."""
    shown = runs[:MOST]
    metric = shown[0].report.metric
    sign = 1 if metric.higher_is_better else -1
    curves = []
    for run in shown:
        points = [point for point in run.report.points if point.sparsity < 1]
        corners = envelope(points, lambda point: density_place(1 - point.sparsity), metric)
        curves.append(sorted(dict(corners).items()))
    everything = [corner for curve in curves for corner in curve]
    places = [place for place, _ in everything] or [0.0, 1.0]
    heights = [sign * value for _, value in everything] or [0.0, 1.0]
    top = max(heights)
    # The lowest ends of the curves would flatten all that matters.
    middle = sorted(heights)[len(heights) // 4]
    bottom = max(min(heights), top - 3 * max(top - middle, 1e-6 * max(1.0, abs(top))))
    room = 0.08 * (top - bottom) or 0.1
    with canvas(width, round(max(280.0, 0.55 * width))) as sheet:
        axes = sheet.axes(left=54, top=34, right=14, bottom=44)
        axes.set_xlim(min(places) - 0.05, max(places) + 0.05)
        axes.set_ylim(sign * (bottom - room), sign * (top + room))
        kept = sparsity_ticks(*axes.get_xlim())
        axes.set_xticks([place for place, _ in kept], [text for _, text in kept])
        axes.set_xlabel("sparsity of the targets, %", labelpad=6)
        axes.grid(axis="y")
        if metric.percent:
            axes.yaxis.set_major_formatter(lambda number, _: f"{100 * number:.4g}")
        for curve, (colour, dashes, marker) in zip(curves, _STYLES, strict=False):
            axes.plot(
                *zip(*curve, strict=True) if curve else ([], []), color=ink(colour), linestyle=dashes, marker=marker,
                linewidth=1.6, markersize=6, markeredgecolor=ink("paper"), markeredgewidth=0.8,
            )  # fmt: skip
        for run in shown:
            chosen = run.report.chosen
            if chosen is not None and chosen.sparsity < 1:
                axes.plot(
                    [density_place(1 - chosen.sparsity)], [chosen.metric], "o", markersize=15, markerfacecolor="none",
                    markeredgecolor=ink("ink"), markeredgewidth=1.2,
                )  # fmt: skip
        if len(runs) > MOST:
            note(
                axes, f"the first {MOST} of {len(runs)} runs", (1, 0), (-6, 6), space=("axes fraction",) * 2, ha="right"
            )
        better = "" if metric.higher_is_better else ", lower is better, drawn upwards"
        sheet.heading(f"{wording.one_line(metric.name, 28)}{', %' if metric.percent else ''}{better}")
        return sheet.svg(f"overlay-{width}", f"{metric.name} against sparsity of {len(shown)} runs")


def mark(index: int) -> str:
    """A small drawing of a run's line, for a legend."""
    colour, dashes, _ = _STYLES[index % MOST]
    dashed = ' stroke-dasharray="5 3"' if dashes == "--" else ""
    return (
        f'<svg class="line" viewBox="0 0 26 14" aria-hidden="true"><path d="M0 7h26" stroke="var(--{colour})" '
        f'stroke-width="2"{dashed}/></svg>'
    )
