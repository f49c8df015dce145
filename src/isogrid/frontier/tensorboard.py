"""Scalars of a run for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isogrid.errors import MissingDependencyError
from isogrid.frontier.events import EpochEnd, Listener

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLog(Listener):
    """Writes loss, metric, exact sparsity and the method's own numbers of each epoch, over all phases in a row.

    The folder appears with the first event, when the run directory is known to be this run's.  A run that is resumed
    goes on at the epoch where it was.

    Raises:
        MissingDependencyError: the tensorboard package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401 - so that what is missing is said before the training
        except ImportError:
            raise MissingDependencyError(
                "Logging for TensorBoard needs its package; install it with: pip install 'isogrid[tensorboard]'."
            ) from None
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._epochs = 0

    def phase_started(self, phase: str, epochs: int, done: int) -> None:
        self._epochs += done

    def epoch_ended(self, event: EpochEnd) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._epochs += 1
        if self._writer is None:
            # What a killed run logged beyond its last checkpoint is trained, and so logged, once more.
            self._writer = SummaryWriter(str(self._folder), purge_step=self._epochs)
        scalars = {"loss": event.loss, "metric": event.metric, "sparsity": event.sparsity}
        for name, value in {**event.telemetry, **scalars}.items():
            self._writer.add_scalar(name, value, self._epochs)

    def closed(self) -> None:
        if self._writer is not None:
            self._writer.close()
