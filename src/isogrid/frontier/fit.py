"""A plain training loop that stops at an accuracy threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.checks import check_whole
from isogrid.errors import DataError, TrainingError, UsageError
from isogrid.metrics import ACCURACY, Metric, to_outcomes, value_of
from isogrid.sparsify import Sparsifier


@dataclass(frozen=True)
class Fit:
    """How a training ended.

    Attributes:
        reached: whether the threshold was reached (with the sparsifier's schedule finished, where there is one).
        steps: optimiser steps taken.
        metric: the last measured value.
        history: ``(step, metric, sparsity)`` of every measurement; the sparsity is of the targets, 0 without a
            sparsifier.
    """

    reached: bool
    steps: int
    metric: float
    history: list[tuple[int, float, float]]


def fit(
    model: nn.Module,
    train: Iterable[Any],
    *,
    optimizer: torch.optim.Optimizer,
    evaluate: Callable[[nn.Module], Any],
    max_steps: int,
    until: float | None = None,
    sparsifier: Sparsifier | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    evaluate_every: int | None = None,
    metric: Metric = ACCURACY,
    on_step: Callable[[int], None] | None = None,
) -> Fit:
    """Train until a metric reaches a threshold, within a limit of steps.

    With a sparsifier the threshold counts only once its schedule is finished: an accuracy that is reached before the
    zeros are there says nothing.  The sparsifier is told every measurement, and is not finalised here.

    Args:
        model: trained in place.
        train: batches; passed over again and again.
        optimizer: of the model.
        evaluate: ``evaluate(model)`` gives the metric, with the model in eval mode and without gradients.
        max_steps: the limit.
        until: the threshold; None trains to the limit.
        sparsifier: attached to the model and the optimiser.
        loss: ``loss(model, batch)``; cross-entropy of ``(inputs, labels)`` by default.
        evaluate_every: steps between two measurements; one pass over the data by default.
        metric: its direction decides what reaching means.
        on_step: called after each step with the number of steps taken.

    Raises:
        UsageError: a limit or an interval below 1, a threshold that is not finite, or no data.
        DataError: a pass gives no batch.
        TrainingError: the loss is not finite.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(64, 2); y = (x[:, 0] > 0).long()
    >>> model = nn.Linear(2, 2)
    >>> accuracy = lambda model: (model(x).argmax(1) == y).float()
    >>> fit(model, [(x, y)], optimizer=torch.optim.Adam(model.parameters(), lr=0.1), evaluate=accuracy,
    ...     max_steps=200, until=0.95).reached
    True
    """
    for name, number in (("max_steps", max_steps), ("evaluate_every", 1 if evaluate_every is None else evaluate_every)):
        check_whole("fit()", name, number)
    if not isinstance(train, Iterable):
        raise UsageError(f"fit() got train={train!r}; accepted is an iterable of batches, such as a DataLoader.")
    if until is not None and not (isinstance(until, int | float) and math.isfinite(until)):
        raise UsageError(f"fit() got until={until!r}; accepted is a finite number, or None to train to the limit.")
    loss = loss or _cross_entropy
    history: list[tuple[int, float, float]] = []
    step = 0

    def measured() -> bool:
        value = _measure(model, evaluate)
        history.append((step, value, sparsifier.sparsity if sparsifier is not None else 0.0))
        if sparsifier is not None:
            sparsifier.observe(value)
            if sparsifier.state.step < sparsifier.state.total_steps:
                return False
        return until is not None and metric.at_least(value, until)

    while True:
        before = step
        for batch in train:
            model.train()
            value = loss(model, batch)
            if not math.isfinite(float(value.detach())):
                raise TrainingError(
                    f"The loss became {float(value.detach())} at step {step}; lower the learning rate or check the "
                    "data."
                )
            if sparsifier is not None:
                value = value + sparsifier.penalty()
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if on_step is not None:
                on_step(step)
            due = evaluate_every is not None and step % evaluate_every == 0
            if due and measured():
                return Fit(True, step, history[-1][1], history)
            if step >= max_steps:
                reached = measured() if not due else False
                return Fit(reached, step, history[-1][1], history)
        if step == before:
            raise DataError(
                "A pass over the training data gave no batch; accepted is an iterable that starts anew at each pass."
            )
        if evaluate_every is None and measured():
            return Fit(True, step, history[-1][1], history)


def _cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def _measure(model: nn.Module, evaluate: Callable[[nn.Module], Any]) -> float:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return value_of(to_outcomes(evaluate(model)))
    finally:
        model.train(training)
