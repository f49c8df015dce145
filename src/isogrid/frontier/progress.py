"""Progress for people: bars where there is a terminal, nothing elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from isogrid.frontier.events import EpochEnd, Listener
from isogrid.metrics import Metric

_TEXT_WIDTH = 56
"""What a line needs beside its bar."""


class TerminalProgress(Listener):
    """Two bars, the phase and the whole job (at most), and a line for every rung that is measured."""

    def __init__(self, console: Console, metric: Metric) -> None:
        self._metric = metric
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=max(4, min(24, console.width - _TEXT_WIDTH))),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._whole: TaskID | None = None
        self._phase: TaskID | None = None
        self._epochs = 0
        self._before = 0.0

    def planned(self, epochs: int) -> None:
        self._progress.start()
        self._whole = self._progress.add_task("whole job, at most", total=epochs, note="epochs")

    def phase_started(self, phase: str, epochs: int, done: int) -> None:
        if self._phase is not None:
            self._progress.remove_task(self._phase)
        self._phase = self._progress.add_task(phase, total=epochs, completed=done, note="epochs")
        self._epochs, self._before = epochs, float(done)
        if self._whole is not None:
            self._progress.advance(self._whole, done)

    def step_taken(self, phase: str, share: float) -> None:
        if self._phase is None or self._whole is None:
            return
        done = share * self._epochs
        self._progress.advance(self._whole, done - self._before)
        self._progress.update(self._phase, completed=done)
        self._before = done

    def epoch_ended(self, event: EpochEnd) -> None:
        if self._phase is not None:
            note = f"{self._written(event.metric)}, {100 * event.sparsity:.1f} % sparse"
            self._progress.update(self._phase, note=note)

    def rung_measured(self, sparsity: float, metric: float, holds: bool) -> None:
        if not self._progress.disable:
            verdict = "[green]holds[/green]" if holds else "[red]breaks[/red]"
            self._progress.console.print(
                f"  {100 * sparsity:6.2f} % sparse: {escape(self._metric.name)} {self._written(metric)} {verdict} the "
                "floor",
                highlight=False,
            )

    def closed(self) -> None:
        self._progress.stop()

    def _written(self, value: float) -> str:
        return f"{100 * value:.2f} %" if self._metric.percent else f"{value:.4g}"
