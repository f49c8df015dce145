"""Outputs are compared before anything is timed: what computes something else is not a rival."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-3
"""By how much of its largest value a float32 output may differ: sums are taken in another order."""


class DifferentError(Exception):
    """An output is not what it should be."""


def tensors(output: Any) -> list[Tensor]:
    """The arrays in whatever a library returns, in order, as float32 tensors."""
    if isinstance(output, Tensor):
        return [output.detach().float()]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return [tensor for part in output for tensor in tensors(part)]
    return [torch.as_tensor(output).float()]


def difference(got: Any, wanted: Any) -> float:
    """The largest difference of two outputs as a share of the largest value; infinite if the shapes do not fit.

    Axes of length one do not matter, nor does it which way a matrix lies: a feature-major product is the transpose of
    the token-major one.
    """
    left, right = tensors(got), tensors(wanted)
    if len(left) != len(right):
        return float("inf")
    worst = 0.0
    for got_one, wanted_one in zip(left, right, strict=True):
        a, b = got_one.squeeze(), wanted_one.squeeze()
        if a.shape != b.shape and a.dim() == 2 and a.t().shape == b.shape:
            a = a.t()
        if a.shape != b.shape:
            return float("inf")
        if b.numel() == 0:
            continue
        largest = max(float(b.abs().max()), 1e-30)
        here = float((a.double() - b.double()).abs().max()) / largest
        worst = max(worst, here if here == here else float("inf"))  # noqa: PLR0124 - a NaN is not itself
    return worst


def check(got: Any, wanted: Any, tolerance: float = TOLERANCE) -> float:
    """The difference, if it is tolerable.

    Raises:
        DifferentError: it is not.
    """
    found = difference(got, wanted)
    if not found <= tolerance:
        raise DifferentError(f"the output differs by {found:.1e} of its largest value; {tolerance:g} is tolerated")
    return found
