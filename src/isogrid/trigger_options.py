"""The options of the sparse trigger, which are the same in every framework."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from isogrid.checks import check_fraction
from isogrid.errors import UsageError
from isogrid.patterns import Unstructured
from isogrid.schedules import Cubic, Schedule
from isogrid.selection import Aim
from isogrid.updates import check_interval


@dataclass(frozen=True)
class TriggerOptions(Aim):
    """What `isogrid.Trigger` and `isogrid.keras.Trigger` can be told, and what is accepted; they say what it means.

    >>> TriggerOptions(sparsity=0.9).mode
    'paced'
    """

    threshold: float | None = None
    quantile: float | None = None
    patience: int = 2
    beta: float = 0.9
    revive: float | None = None
    schedule: Schedule = field(default_factory=lambda: Cubic(end=0.75))
    delta_t: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval("Trigger", self.delta_t)
        if self.threshold is not None and self.quantile is not None:
            raise UsageError(
                "Trigger got both a threshold and a quantile; accepted is one of them, or neither (paced)."
            )
        if self.threshold is not None and not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise UsageError(f"Trigger got threshold={self.threshold!r}; accepted is a finite number >= 0.")
        if self.quantile is not None:
            check_fraction("Trigger", "quantile", self.quantile)
        check_fraction("Trigger", "beta", self.beta)
        if self.patience < 1:
            raise UsageError(f"Trigger got patience={self.patience!r}; accepted is a whole number >= 1.")
        if self.revive is not None and not self.revive > 0:
            raise UsageError(f"Trigger got revive={self.revive!r}; accepted is a number > 0, or None.")
        if self.revive is not None and self.target_pattern != Unstructured():
            raise UsageError(
                f"Trigger got revive={self.revive!r} with pattern {self.target_pattern}; accepted is unstructured, "
                "for single weights come back."
            )

    @property
    def mode(self) -> str:
        """``"absolute"``, ``"quantile"`` or ``"paced"``."""
        if self.threshold is not None:
            return "absolute"
        return "paced" if self.quantile is None else "quantile"
