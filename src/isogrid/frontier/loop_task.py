"""A task made of the objects that a training script has at hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.errors import UsageError
from isogrid.evaluating import positional
from isogrid.metrics import ACCURACY, Metric, Outcomes, to_outcomes
from isogrid.tasks import Recipe, Split, Task

Evaluate = Callable[[nn.Module], Any]


class LoopTask(Task):
    """A model, a loader and a metric function, as `isogrid.optimize` takes them.

    Args:
        model: its weights now are where dense training starts, or the dense baseline itself if `pretrained`.
        train: an iterable of batches that starts anew at each pass, usually a ``DataLoader``.  What it draws at random
            must come from the global generators or from a generator of the loader or its sampler: all these are seeded
            before each pass, so that a run can be repeated and resumed bit by bit.
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
        if isinstance(train, Iterator) or not isinstance(train, Iterable):
            kind = "an iterator, which ends after one pass" if isinstance(train, Iterator) else type(train).__name__
            raise UsageError(f"train is {kind}; accepted is an iterable that starts anew, such as a DataLoader.")
        self._model = copy.deepcopy(model)
        self._train, self._evaluate, self._test = train, evaluate, test
        self._loss, self._forward = loss, forward
        self._example = positional("optimize()", example)
        self._set(
            metric=metric, recipe=recipe or Recipe(), pretrained=pretrained, targets=targets, ignore=ignore, name=name
        )

    def _set(self, **values: Any) -> None:
        """Class-level attributes of `Task` that here belong to the object."""
        for name, value in values.items():
            setattr(self, name, value)

    def model(self) -> nn.Module:
        return copy.deepcopy(self._model)

    def generators(self) -> list[torch.Generator]:
        """The generators of their own that the loader and its samplers draw from."""
        sampler = getattr(self._train, "sampler", None)
        inner = getattr(getattr(self._train, "batch_sampler", None), "sampler", None)
        held = [getattr(holder, "generator", None) for holder in (self._train, sampler, inner)]
        return list({id(found): found for found in held if isinstance(found, torch.Generator)}.values())

    def batches(self) -> Iterable[Any]:
        for generator in self.generators():
            # It would go on from where it was, which a resumed run does not know.
            generator.manual_seed(int(torch.randint(2**31, (1,))))
        return self._train

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        return super().forward(model, batch) if self._forward is None else self._forward(model, batch)

    def loss(self, answer: Tensor, batch: Any) -> Tensor:
        return super().loss(answer, batch) if self._loss is None else self._loss(answer, batch)

    def has(self, split: Split) -> bool:
        return split == "validation" or (split == "test" and self._test is not None)

    def evaluate(self, model: nn.Module, split: Split) -> Outcomes | float:
        measure = self._test if split == "test" else self._evaluate
        if measure is None or not self.has(split):
            raise UsageError(f"The {split} split was asked for, and no function measures it.")
        return to_outcomes(measure(model))

    def example(self) -> tuple[Tensor, ...]:
        return self._example
