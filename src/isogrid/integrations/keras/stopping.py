"""Stopping a Keras training as soon as it is good enough."""

from __future__ import annotations

import math
from typing import Any

import keras

from isogrid.errors import UsageError
from isogrid.integrations.keras.riding import state_of


class StopAtAccuracy(keras.callbacks.Callback):
    """Ends ``model.fit`` at the first epoch whose metric reaches a threshold.

    Where a `Sparsify` callback makes the model sparse, training goes on until the sparsity is final as well, so that
    what stops is the model that is kept.

    Args:
        threshold: the value to reach, in units of the metric.
        monitor: the metric, as it stands in the logs.
        higher_is_better: the direction of the metric.

    Raises:
        UsageError: a threshold that is not finite; during training, a metric that is not in the logs.

    >>> StopAtAccuracy(0.97).monitor
    'val_accuracy'
    """

    def __init__(self, threshold: float, monitor: str = "val_accuracy", *, higher_is_better: bool = True) -> None:
        super().__init__()
        if isinstance(threshold, bool) or not isinstance(threshold, float | int) or not math.isfinite(threshold):
            raise UsageError(f"StopAtAccuracy got threshold={threshold!r}; accepted is a finite number.")
        self.threshold = float(threshold)
        self.monitor = monitor
        self.higher_is_better = higher_is_better
        self.stopped_epoch: int | None = None
        """The epoch, from 0, that ended the training; None where none did."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.stopped_epoch = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.monitor not in (logs or {}):
            raise UsageError(
                f"StopAtAccuracy got monitor={self.monitor!r}, which is not logged; accepted are "
                f"{', '.join(sorted(logs or {}))}."
            )
        assert logs is not None
        value = float(logs[self.monitor])
        reached = value >= self.threshold if self.higher_is_better else value <= self.threshold
        state = state_of(self.model.optimizer)
        if reached and (state is None or state.finished):
            self.stopped_epoch = epoch
            self.model.stop_training = True
