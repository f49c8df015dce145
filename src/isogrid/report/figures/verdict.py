"""The verdict as a picture: the drop on the test split with its interval, beside what was allowed."""

from __future__ import annotations

from isogrid.report import wording
from isogrid.report.data import ReportData
from isogrid.report.figures.canvas import canvas, ink, note


def drop_interval(data: ReportData, width: int) -> str:
    """Draw the drop, its paired 95 % interval, and the limit beyond which the floor is broken."""
    verdict = data.verdict
    ends = [0.0, verdict.low, verdict.high, verdict.drop, verdict.allowed]
    spare = 0.14 * (max(ends) - min(ends)) or 1.0
    left, right = min(ends) - spare, max(ends) + spare
    pixels = width / (right - left)
    with canvas(width, 124) as sheet:
        axes = sheet.axes(left=2, top=26, right=2, bottom=46)
        axes.set_xlim(left, right)
        axes.set_ylim(-1, 1)
        axes.set_yticks([])
        axes.set_xticks([])
        axes.axvspan(max(verdict.allowed, left), right, color=ink("band"), linewidth=0, zorder=0)
        axes.axvline(0, color=ink("dense"), linewidth=1.2)
        axes.axvline(verdict.allowed, color=ink("ink"), linewidth=1.2, dashes=(5, 3))
        if verdict.samples:
            axes.plot([verdict.low, verdict.high], [0, 0], color=ink("accent"), linewidth=3)
            axes.plot([verdict.low, verdict.high], [0, 0], "|", color=ink("accent"), markersize=14, markeredgewidth=2)
        axes.plot([verdict.drop], [0], "o", color=ink("accent"), markersize=12, markeredgecolor=ink("paper"))
        marks = sorted([(0.0, "as dense", "muted"), (verdict.allowed, "allowed", "ink")])
        for (place, text, colour), side in zip(marks, _sides(abs(verdict.allowed) * pixels), strict=True):
            note(axes, text, (place, 1), (0, 5), colour=colour, ha=side, va="bottom")
        labels = list(zip((verdict.low, verdict.high), _sides((verdict.high - verdict.low) * pixels), strict=True))
        for place, side in labels if verdict.samples else [(verdict.drop, "center")]:
            text = wording.scale(data).difference(place).replace("-", "\N{MINUS SIGN}")
            note(axes, text, (place, -1), (0, -6), colour="ink", ha=side, va="top")
        note(axes, "\N{LEFTWARDS ARROW} better", (left, -1), (0, -26), va="top")
        note(axes, "worse \N{RIGHTWARDS ARROW}", (right, -1), (0, -26), ha="right", va="top")
        return sheet.svg(f"verdict-{width}", f"Drop on the test split: {wording.verdict(data)}.")


def _sides(apart: float) -> tuple[str, str]:
    """Return how two words that stand ``apart`` pixels are aligned: close to each other they lean apart."""
    return ("center", "center") if apart > 84 else ("right", "left")
