"""The weights of a PyTorch model as arrays, rounded to what a file holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isogrid.errors import TargetError, UnsupportedError, UsageError
from isogrid.formats.numbers import Values, parse_values, round_values
from isogrid.masks import Target, find_targets, unwrap

Selection = str | Sequence[str] | None


@dataclass(frozen=True, eq=False)
class RoundedWeight:
    """A weight and the float32 array of the parameter's shape that rounding makes of it."""

    target: Target
    array: NDArray[np.float32]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module below all wrappers.

    Raises:
        UsageError: it is no module.

    >>> unwrapped(nn.ReLU())
    ReLU()
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"The model is a {type(model).__name__}; accepted is a torch.nn.Module.")
    return unwrap(model)


def rounded_weights(targets: Iterable[Target], values: Values) -> list[RoundedWeight]:
    """What each of `targets` becomes in the number format `values`; nothing is changed.

    Raises:
        UsageError: an unknown number format.
        TrainingError: a weight is not finite, for fp16 and int8; the message names it.
        UnsupportedError: a weight is beyond the number format, or int8 weights are asked of half precision parameters,
            which cannot hold them.

    >>> [weight.target.name for weight in rounded_weights(find_targets(nn.Linear(2, 2)), "int8")]
    ['weight']
    """
    parse_values(values)
    return [_rounded(target, values) for target in targets]


def weight_targets(
    model: nn.Module, targets: Selection = None, ignore: Selection = None, *, embeddings: bool = False
) -> list[Target]:
    """As `find_targets`, but a model without any weight matrix has none instead of being refused.

    >>> weight_targets(nn.LayerNorm(3))
    []
    """
    try:
        return find_targets(model, targets, ignore, embeddings=embeddings)
    except TargetError:
        if targets is None and ignore is None:
            return []
        raise


def to_numpy(tensor: Tensor, name: str = "tensor") -> NDArray[Any]:
    """A tensor's numbers as an array, sharing memory where possible; bfloat16 becomes float32.

    Raises:
        UnsupportedError: no array can hold it (8-bit floats, sparse layouts, the meta device); the message has `name`.

    >>> to_numpy(torch.zeros(2, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    try:
        plain = tensor.detach().cpu()
        array: NDArray[Any] = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    except (TypeError, RuntimeError) as problem:  # NotImplementedError, of the meta device, is a RuntimeError
        raise UnsupportedError(
            f"{name} is a {tensor.dtype} tensor of {tensor.layout} on {tensor.device}; accepted are dense tensors of "
            "ordinary numbers in memory."
        ) from problem
    return array


def _rounded(target: Target, values: Values) -> RoundedWeight:
    dtype = target.parameter.dtype
    if values == "int8" and dtype in (torch.float16, torch.bfloat16):
        raise UnsupportedError(f"{target.name} is {dtype}, which cannot hold int8 weights exactly; call model.float().")
    weight = to_numpy(target.parameter, target.name)
    return RoundedWeight(target, round_values(weight, values, target.output_axis, name=target.name))
