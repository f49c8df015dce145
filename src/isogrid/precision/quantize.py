"""Rounding the weights of a trained PyTorch model in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from isogrid.formats.numbers import Values
from isogrid.formats.weights import RoundedWeight, rounded_weights, to_numpy
from isogrid.masks import find_targets


@dataclass(frozen=True)
class QuantizedWeight:
    """What rounding did to one weight.

    Attributes:
        name, shape: of the parameter.
        nonzeros: left after rounding.
        vanished: weights that were not zero before and are now.
        error: root mean square of the changes, relative to that of the weights (0 for an all-zero weight).
    """

    name: str
    shape: tuple[int, ...]
    nonzeros: int
    vanished: int
    error: float


@dataclass(frozen=True)
class QuantizationReport:
    """What `quantize` did: the number format and, in the model's order, every weight it rounded."""

    weights: Values
    layers: tuple[QuantizedWeight, ...]

    @property
    def nonzeros(self) -> int:
        """Nonzeros of all rounded weights."""
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def vanished(self) -> int:
        """Weights that rounding made zero."""
        return sum(layer.vanished for layer in self.layers)


def quantize(
    model: nn.Module,
    weights: Values = "int8",
    targets: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
) -> QuantizationReport:
    """Round the weights of `model` in place to what a file with `weights` numbers can hold.

    ``"int8"`` is symmetric with one scale per output unit, ``"fp16"`` the nearest half (the rules are in
    `isogrid.formats.numbers`), ``"fp32"`` changes nothing.  Modules, names, dtypes and zeros stay; the parameters then
    hold exactly the numbers that `isogrid.save` stores and `isogrid.load` gives back.  Rounding again changes nothing.

    Args:
        model: changed in place, or not at all when there is an error.
        weights: number format.
        targets, ignore: names or regular expressions as in `isogrid.masks.find_targets`.  Without `targets` all weight
            matrices and kernels of linear, convolution, recurrent, attention and embedding layers; never biases and
            norms.  A shared weight is rounded once.

    Raises:
        UsageError: an unknown number format.
        TargetError: nothing to round.
        TrainingError: a weight is not finite; the message names it.
        UnsupportedError: a weight is beyond the number format, or int8 weights are asked of half precision parameters,
            which cannot hold them.

    >>> import torch
    >>> layer = torch.nn.Linear(4, 2)
    >>> report = quantize(layer, "int8")
    >>> report.layers[0].name, report.layers[0].error < 0.01
    ('weight', True)
    """
    rounded = rounded_weights(find_targets(model, targets, ignore, embeddings=True), weights)
    layers = tuple(_compare(weight) for weight in rounded)
    with torch.no_grad():
        for weight in rounded:
            weight.target.parameter.copy_(torch.from_numpy(weight.array))
    return QuantizationReport(weights, layers)


def _compare(weight: RoundedWeight) -> QuantizedWeight:
    before = to_numpy(weight.target.parameter).astype(np.float64)
    power = float(np.sum(np.square(before)))
    change = float(np.sum(np.square(weight.array - before)))
    nonzeros = int(np.count_nonzero(weight.array))
    return QuantizedWeight(
        name=weight.target.name,
        shape=before.shape,
        nonzeros=nonzeros,
        vanished=int(np.count_nonzero(before)) - nonzeros,
        error=(change / power) ** 0.5 if power else 0.0,
    )
