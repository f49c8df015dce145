"""The training history: the metric, the sparsity and the loss over the steps, with the phases set apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from isogrid.report import wording
from isogrid.report.data import ReportData, TrainingPoint
from isogrid.report.figures.canvas import SMALL, canvas, ink, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More records than this would not be seen on any screen.
MOST_RECORDS = 600


@dataclass(frozen=True)
class _Phase:
    name: str
    steps: list[int]
    records: list[TrainingPoint]


def training_history(data: ReportData, width: int) -> str:
    """Draw metric, sparsity and loss, one under the other, over all steps trained."""
    phases = _phases(data.history)
    panels: list[tuple[str, str, Callable[[TrainingPoint], float | None]]] = [
        ("sparsity, %", "accent", lambda record: 100 * record.sparsity),
        ("loss", "ink", lambda record: record.loss),
    ]
    if any(record.metric is not None for record in data.history):
        factor, unit = (100, ", %") if data.metric.percent else (1, "")
        name = f"validation {wording.one_line(data.metric.name, 24)}{unit}"
        panels.insert(0, (name, "ink", lambda r: None if r.metric is None else factor * r.metric))
    tall, gap = 96, 34
    with canvas(width, 24 + len(panels) * (tall + gap) + 22) as sheet:
        first, last = phases[0].steps[0], phases[-1].steps[-1]
        for row, (name, colour, read) in enumerate(panels):
            top = 24 + row * (tall + gap) + 18
            axes = sheet.axes(left=48, top=top, right=10, bottom=sheet.height - top - tall)
            axes.set_xlim(first, max(last, first + 1))
            _draw_panel(axes, phases, colour, read)
            axes.set_title(name, loc="left", fontsize=SMALL, color=ink("muted"), pad=5)
            if row == 0:
                _name_phases(axes, phases, width)
            if row == len(panels) - 1:
                axes.set_xlabel("step", labelpad=4)
            else:
                axes.tick_params(axis="x", labelbottom=False)
        return sheet.svg(
            f"history-{width}",
            f"Training over {wording.whole(last)} steps in {len(phases)} phases.",
        )


def elapsed(records: Sequence[TrainingPoint]) -> list[int]:
    """Return the steps trained up to each record, also where a return to a checkpoint sets the step back.

    >>> def record(step): return TrainingPoint(step=step, phase="rung 1", loss=1.0, metric=None, sparsity=0.5)
    >>> elapsed([record(0), record(100), record(200), record(150), record(250)])
    [0, 100, 200, 200, 300]
    """
    total, previous, steps = 0, 0, []
    for record in records:
        total += max(0, record.step - previous)
        previous = record.step
        steps.append(total)
    return steps


def _phases(history: Sequence[TrainingPoint]) -> list[_Phase]:
    pairs = list(zip(elapsed(history), history, strict=True))
    phases = []
    for name, members in groupby(pairs, key=lambda pair: pair[1].phase):
        kept = list(members)
        share = max(1, -(-len(pairs) // MOST_RECORDS))
        # The last record of a phase is where it arrived, so it is always kept.
        kept = [*kept[:-1:share], kept[-1]]
        phases.append(_Phase(name, [step for step, _ in kept], [record for _, record in kept]))
    return phases


def _draw_panel(
    axes: Axes,
    phases: Sequence[_Phase],
    colour: str,
    read: Callable[[TrainingPoint], float | None],
) -> None:
    values: list[float] = []
    for phase in phases:
        known = [
            (step, y)
            for step, record in zip(phase.steps, phase.records, strict=True)
            if (y := read(record)) is not None
        ]
        values += [y for _, y in known]
        if known:
            lone = "o" if len(known) == 1 else ""
            axes.plot(
                *zip(*known, strict=True),
                color=ink(colour),
                linewidth=1.4,
                marker=lone,
                markersize=3,
            )
    if values and min(values) > 0 and max(values) > 200 * min(values):
        axes.set_yscale("log")
        # matplotlib would write powers as formulas, which the page shows as their source.
        axes.yaxis.set_major_formatter(lambda number, _: f"{number:g}".replace("-", "\N{MINUS SIGN}"))
    else:
        axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y")
    for phase in phases[1:]:
        axes.axvline(phase.steps[0], color=ink("rule"), linewidth=1, zorder=0)


def _name_phases(axes: Axes, phases: Sequence[_Phase], width: int) -> None:
    """Write the phases' names above, leaving out those for which there is no room."""
    left, right = axes.get_xlim()
    pixels = (width - 58) / (right - left)
    free = -1.0
    for phase in phases:
        start = (phase.steps[0] - left) * pixels
        name = wording.one_line(phase.name, 20)
        if start >= free and start + 6.5 * len(name) <= width - 58:
            note(axes, name, (phase.steps[0], 1), (2, 22), space=("data", "axes fraction"), va="bottom")
            free = start + 6.5 * len(name) + 12
