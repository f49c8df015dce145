"""One pass over samples, with the gradient of the loss at the places of a model that are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.evaluating import in_eval_mode
from isogrid.tasks import Task

Seen = Callable[[Any, Tensor], None]
"""Told the inputs of a module and, of each of its outputs' numbers, value times gradient of the summed loss."""


def contributions(
    task: Task, model: nn.Module, batches: Iterable[Any], watched: dict[nn.Module, Seen], *, most: int | None = None
) -> int:
    """Run batches through `model` in eval mode and tell each watched module what its outputs did to the loss.

    An output times the loss's slope at it is the first-order estimate of what the loss would change by if that output
    were zero (Molchanov et al. 2019, arXiv:1906.10771, eq. 8).  The model is left as it was.

    Returns the number of batches.
    """
    kept: list[tuple[nn.Module, Any, Tensor]] = []

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        if isinstance(found, Tensor) and found.requires_grad:
            found.retain_grad()
            kept.append((module, given, found))

    count = 0
    trained = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    with ExitStack() as stack, torch.enable_grad():
        stack.enter_context(in_eval_mode(model))
        for module in watched:
            stack.callback(module.register_forward_hook(keep).remove)
        try:
            for parameter, *_ in trained:
                if parameter.is_floating_point():
                    parameter.requires_grad_(True)
                parameter.grad = None  # backward would add to a gradient that is another's
            for batch in islice(batches, most):
                size = len(batch[0]) if isinstance(batch, tuple | list) and isinstance(batch[0], Tensor) else 1
                # The usual loss is a mean: a sample's own share must not depend on how many are in its batch.
                (task.loss(task.forward(model, batch), batch) * size).backward()
                for module, given, output in kept:
                    if output.grad is not None:
                        watched[module](given, (output.detach() * output.grad).double())
                kept.clear()
                count += 1
        finally:
            for parameter, needs, gradient in trained:
                parameter.requires_grad_(needs)
                parameter.grad = gradient
    return count
