"""Scalars of a run for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from isogrid.errors import MissingDependencyError
from isogrid.frontier.events import EpochEnd, Listener


class TensorBoardLog(Listener):
    """Writes loss, metric, exact sparsity and the method's own numbers of each epoch, over all phases in a row.

    Raises:
        MissingDependencyError: the tensorboard package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependencyError(
                "Logging for TensorBoard needs its package; install it with: pip install 'isogrid[tensorboard]'."
            ) from None
        self._writer = SummaryWriter(str(folder))  # type: ignore[no-untyped-call]
        self._epochs = 0

    def epoch_ended(self, event: EpochEnd) -> None:
        self._epochs += 1
        scalars = {"loss": event.loss, "metric": event.metric, "sparsity": event.sparsity}
        for name, value in {**event.telemetry, **scalars}.items():
            self._writer.add_scalar(name, value, self._epochs)  # type: ignore[no-untyped-call]

    def closed(self) -> None:
        self._writer.close()  # type: ignore[no-untyped-call]
