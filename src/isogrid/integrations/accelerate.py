"""Accelerate: a sparsifier on what ``accelerator.prepare`` has returned."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from isogrid.errors import UnsupportedError
from isogrid.integrations.missing import missing
from isogrid.integrations.riding import attach
from isogrid.penalties import Penalty
from isogrid.sparsify import Method, Sparsifier

try:
    from accelerate import Accelerator, DistributedType
except ModuleNotFoundError as problem:
    raise missing(problem, "accelerate", extra="transformers") from None

_REFUSED = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def sparsifier(
    accelerator: Accelerator,
    model: nn.Module,
    method: Method | Penalty,
    *,
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    **options: Any,
) -> Sparsifier:
    """A `isogrid.Sparsifier` on a prepared model and a prepared optimiser.

    It rides on the optimiser below Accelerate's own, and knows the accelerator's gradient scaler.  Give it to
    ``accelerator.register_for_checkpointing`` and ``save_state`` and ``load_state`` take its state along.

    ``accelerator.backward`` divides by the number of accumulated batches, and the penalty counts once for each step:
    write ``accelerator.backward(loss + accelerator.gradient_accumulation_steps * sparsifier.penalty())``.

    Args:
        accelerator: the one that prepared `model` and `optimizer`.
        model: as ``accelerator.prepare`` returned it.
        method: a `Method`, or a `Penalty` alone.
        optimizer: as ``accelerator.prepare`` returned it.
        total_steps: optimiser steps of the whole training.
        options: further arguments of `isogrid.Sparsifier`.

    Raises:
        UnsupportedError: DeepSpeed or Megatron-LM, which move weights of their own, or FSDP, whose weights no process
            sees whole.
        UsageError, TargetError, PatternError: what does not fit, as in `isogrid.Sparsifier`.

    >>> import isogrid as ig
    >>> accelerator = Accelerator(cpu=True)
    >>> model = nn.Linear(8, 4)
    >>> model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    >>> riding = sparsifier(accelerator, model, ig.Static(sparsity=0.5), optimizer=optimizer, total_steps=1)
    >>> loss = model(torch.ones(2, 8)).square().mean() + riding.penalty()
    >>> accelerator.backward(loss); optimizer.step(); optimizer.zero_grad()
    >>> riding.finalize()["sparsity"]
    0.5
    """
    if accelerator.distributed_type in _REFUSED:
        raise UnsupportedError(
            f"{accelerator.distributed_type.value} moves copies of the weights that no sparsifier sees; accepted are "
            "one process and DistributedDataParallel."
        )
    return attach(model, method, optimizer=optimizer, total_steps=total_steps, scaler=accelerator.scaler, **options)
