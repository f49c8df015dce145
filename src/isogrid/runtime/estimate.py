"""How long a PyTorch model's layers would take on this package's kernels, by the cost model: the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.evaluating import evaluating, plain_attention
from isogrid.runtime.cost import Work, fewest_nanoseconds

_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class Latency:
    """The milliseconds that one call's linear, convolutional and recurrent layers are expected to take.

    What does not depend on weights (activations, norms, attention's own products) is left out: it is the same for all
    models that are compared.  Where layers run how often is seen once, from a call of a model of the same structure.

    Args:
        model: left as it is.
        example: its positional arguments.

    >>> model = nn.Linear(1024, 1024)
    >>> latency = Latency(model, (torch.zeros(1, 1024),))
    >>> dense = latency(model)
    >>> with torch.no_grad():
    ...     _ = model.weight[:, 100:].zero_()
    >>> latency(model) < dense / 5
    True
    """

    def __init__(self, model: nn.Module, example: tuple[Any, ...]) -> None:
        self._calls: list[tuple[str, str, int, int, int]] = []
        handles = [
            handle
            for name, module in model.named_modules()
            if isinstance(module, (*_PRODUCTS, nn.RNNBase, nn.MultiheadAttention))
            for handle in [module.register_forward_hook(self._watch(name))]
        ]
        try:
            # PyTorch's short cut for encoder layers would call none of the layers in them.
            with evaluating(model), plain_attention():
                model(*example)
        finally:
            for handle in handles:
                handle.remove()

    def _watch(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def seen(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            x = args[0] if args else None
            if not isinstance(x, Tensor):
                return
            if isinstance(module, nn.RNNBase):
                steps = 1 if x.dim() < 3 else x.shape[1 if module.batch_first else 0]
                batch = x.numel() // (x.shape[-1] * steps)
                for matrix, value in module.named_parameters():
                    # The product with the input is one for all steps; that with the state is one a step.
                    if value.dim() == 2:
                        times, tokens = (1, steps * batch) if "_ih_" in matrix else (steps, batch)
                        self._calls.append((name, matrix, tokens, times, tokens * value.shape[1]))
                return
            if isinstance(module, nn.MultiheadAttention):
                tokens = x.numel() // x.shape[-1]
                if module.in_proj_weight is not None:
                    self._calls.append((name, "in_proj_weight", tokens, 1, x.numel()))
                # It is read, and not called.
                self._calls.append((f"{name}.out_proj".lstrip("."), "weight", tokens, 1, x.numel()))
                return
            weight: Any = module.weight
            positions = max(1, output.numel() // weight.shape[0])
            self._calls.append((name, "weight", positions, 1, x.numel()))

        return seen

    def __call__(self, model: nn.Module) -> float:
        """The estimate for a model of the structure that was seen, in milliseconds."""
        total = 0.0
        for name, weight, positions, times, inputs in self._calls:
            value = getattr(model.get_submodule(name), weight)
            rows, columns = value.shape[0], math.prod(value.shape[1:])
            work = Work(rows, columns, int(torch.count_nonzero(value)), positions, inputs)
            total += times * fewest_nanoseconds(work)
        return total / 1e6
