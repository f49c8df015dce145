"""A task made of the objects that a training script has at hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.errors import UsageError
from isogrid.metrics import ACCURACY, Metric, Outcomes, to_outcomes
from isogrid.tasks import Recipe, Split, Task

Evaluate = Callable[[nn.Module], Any]


class LoopTask(Task):
    """A model, a loader and a metric function, as `isogrid.optimize` takes them.

    Args:
        model: its weights now are where dense training starts, or the dense baseline itself if `pretrained`.
        train: an iterable of batches that starts anew at each pass, usually a ``DataLoader``.
        evaluate: ``evaluate(model)`` measures the validation split.
        test: the same for a split that chooses nothing; without it nothing can be confirmed.
        example: inputs for export, a tensor or a tuple of tensors, batch first.
        loss: ``loss(answer, batch)``; cross-entropy with ``batch[1]`` by default.
        forward: ``forward(model, batch)``; ``model(batch[0])`` by default.
    """

    name = "model"
    summary = "a model from a script"

    def __init__(
        self,
        model: nn.Module,
        *,
        train: Iterable[Any],
        evaluate: Evaluate,
        example: Tensor | tuple[Tensor, ...],
        test: Evaluate | None = None,
        loss: Callable[[Tensor, Any], Tensor] | None = None,
        forward: Callable[[nn.Module, Any], Tensor] | None = None,
        metric: Metric = ACCURACY,
        recipe: Recipe | None = None,
        pretrained: bool = False,
        targets: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
        name: str = "model",
    ) -> None:
        if iter(train) is train:
            raise UsageError(
                "train is an iterator, which ends after one pass; accepted is an iterable such as a DataLoader."
            )
        self._model = copy.deepcopy(model)
        self._train, self._evaluate, self._test = train, evaluate, test
        self._loss, self._forward = loss, forward
        self._example = example if isinstance(example, tuple) else (example,)
        self._set(
            metric=metric, recipe=recipe or Recipe(), pretrained=pretrained, targets=targets, ignore=ignore, name=name
        )

    def _set(self, **values: Any) -> None:
        """Class-level attributes of `Task` that here belong to the object."""
        for name, value in values.items():
            setattr(self, name, value)

    def model(self) -> nn.Module:
        return copy.deepcopy(self._model)

    def batches(self) -> Iterable[Any]:
        generator = getattr(self._train, "generator", None)
        if isinstance(generator, torch.Generator):
            # A loader with a generator of its own would go on from where it was, which a resumed run does not know.
            generator.manual_seed(int(torch.randint(2**31, (1,))))
        return self._train

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        return super().forward(model, batch) if self._forward is None else self._forward(model, batch)

    def loss(self, answer: Tensor, batch: Any) -> Tensor:
        return super().loss(answer, batch) if self._loss is None else self._loss(answer, batch)

    @property
    def has_test_split(self) -> bool:
        return self._test is not None

    def evaluate(self, model: nn.Module, split: Split) -> Outcomes | float:
        if split == "validation":
            return to_outcomes(self._evaluate(model))
        if split == "test" and self._test is not None:
            return to_outcomes(self._test(model))
        raise NotImplementedError

    def example(self) -> tuple[Tensor, ...]:
        return self._example
