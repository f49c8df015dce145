"""What the main job tells whoever listens: a terminal, a log, a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochEnd:
    """One pass over the training data is done.

    ``phase`` is ``"dense"``, ``"dense, cycle 3"`` or ``"rung 5"``; ``metric`` is of the validation split; ``sparsity``
    counts real zeros of the targets.
    """

    phase: str
    epoch: int
    epochs: int
    step: int
    loss: float
    metric: float
    sparsity: float
    telemetry: dict[str, float]


class Listener:
    """Hears what the main job does.  Every method may be overridden; none must be."""

    def planned(self, epochs: int) -> None:
        """The job takes at most so many passes over the training data."""

    def phase_started(self, phase: str, epochs: int, done: int) -> None:
        """A phase of `epochs` passes begins; `done` of them were found finished."""

    def step_taken(self, phase: str, share: float) -> None:
        """An optimiser step was taken; `share` of the phase is done."""

    def epoch_ended(self, event: EpochEnd) -> None:
        """A pass is over and validated."""

    def rung_measured(self, sparsity: float, metric: float, holds: bool) -> None:
        """A rung is trained and measured; `metric` is the best of its precisions."""

    def closed(self) -> None:
        """The job is over, well or not."""


class Listeners(Listener):
    """Several listeners as one."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)

    def planned(self, epochs: int) -> None:
        for listener in self._listeners:
            listener.planned(epochs)

    def phase_started(self, phase: str, epochs: int, done: int) -> None:
        for listener in self._listeners:
            listener.phase_started(phase, epochs, done)

    def step_taken(self, phase: str, share: float) -> None:
        for listener in self._listeners:
            listener.step_taken(phase, share)

    def epoch_ended(self, event: EpochEnd) -> None:
        for listener in self._listeners:
            listener.epoch_ended(event)

    def rung_measured(self, sparsity: float, metric: float, holds: bool) -> None:
        for listener in self._listeners:
            listener.rung_measured(sparsity, metric, holds)

    def closed(self) -> None:
        for listener in self._listeners:
            listener.closed()
