"""The data that a method may look at beside the weights: for calibration after training, and for scores before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from isogrid.errors import DataError, UsageError

Forward = Callable[[nn.Module, Any], Any]
Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Batches, and how a model answers them.

    Attributes:
        batches: an iterable that starts anew at each pass, such as a list or a ``DataLoader``.
        forward: ``forward(model, batch)``; by default ``model(batch)`` for a tensor, ``model(batch[0])`` for a pair of
            inputs and labels, ``model(**batch)`` for a mapping.
        loss: ``loss(answer, batch)``, a scalar; by default the answer's own ``loss`` where it has one (Hugging Face
            models given labels), else the cross-entropy with ``batch[1]``.

    Raises:
        UsageError: `batches` can be passed through only once.

    >>> import torch
    >>> data = Calibration([torch.ones(2, 3), torch.zeros(1, 3)])
    >>> [tuple(data.answer(nn.Linear(3, 1), batch).shape) for batch in data]
    [(2, 1), (1, 1)]
    """

    batches: Iterable[Any]
    forward: Forward | None = None
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batches, Iterator) or not isinstance(self.batches, Iterable):
            kind = type(self.batches).__name__
            raise UsageError(
                f"data is of type {kind}; accepted is an iterable that starts anew at each pass, such as a list of "
                "batches or a DataLoader."
            )

    def __iter__(self) -> Iterator[Any]:
        """One pass.

        Raises:
            DataError: there is no batch.
        """
        empty = True
        for batch in self.batches:
            empty = False
            yield batch
        if empty:
            raise DataError("data holds no batch; accepted is one batch or more.")

    def answer(self, model: nn.Module, batch: Any) -> Any:
        """The model's answer to a batch."""
        if self.forward is not None:
            return self.forward(model, batch)
        if isinstance(batch, Tensor):
            return model(batch)
        if isinstance(batch, Mapping):
            return model(**batch)
        if isinstance(batch, tuple | list) and batch:
            return model(batch[0])
        raise UsageError(
            f"A batch of data is of type {type(batch).__name__}; accepted are a tensor, a pair of inputs and labels, a "
            "mapping of the model's arguments, or anything with forward=."
        )

    def loss_of(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of the model's answer to a batch, a differentiable scalar."""
        answer = self.answer(model, batch)
        if self.loss is not None:
            return self.loss(answer, batch)
        own = getattr(answer, "loss", None)
        if isinstance(own, Tensor):
            return own
        if isinstance(batch, tuple | list) and len(batch) > 1 and isinstance(answer, Tensor):
            return nn.functional.cross_entropy(answer, batch[1])
        raise UsageError(
            "The loss of a batch of data is not known: accepted are pairs of inputs and labels (cross-entropy), a "
            "model whose answer has a loss, or anything with loss=."
        )
