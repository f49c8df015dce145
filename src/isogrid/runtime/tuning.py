"""Choices by the clock: each layer timed both ways with cold weights, and the whole model at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.runtime.cost import Work, gain
from isogrid.runtime.layers import SparseConv2d, SparseLinear
from isogrid.runtime.matrix import SparseMatrix, Values
from isogrid.runtime.products import Product, shape_of

_REPEATS = 7
_COLD_BYTES = 64 << 20
"""More than any cache: a model's other layers push a layer's weights out between two calls."""
_MARGIN = 1.02
"""Sparse must win by this much, or the layer stays as it is."""


class Stopwatch:
    """Decides by timing, once for each layer and size of input."""

    def __init__(self, values: Values, told: Mapping[str, str] | None) -> None:
        self._values, self._told = values, told
        self._sweep = torch.zeros(_COLD_BYTES // 4)

    def __call__(self, product: Product, work: Work) -> tuple[bool, float, str]:
        """Whether the sparse layer is faster, how many times, and why."""
        if self._told is not None and product.name in self._told:
            return self._told[product.name] == "sparse", gain(work), "as told"
        if work.nonzeros == work.rows * work.columns:
            return False, gain(work), "no zeros"
        shape = shape_of(product.x)
        if shape is None:
            return gain(work) > 1, gain(work), "cost model"
        x = torch.randn(_concrete(shape, work.inputs))
        if product.kind == "conv1d":
            x = x.unsqueeze(2)
        dense, sparse = self._candidates(product)
        seconds = self._interleaved([lambda: dense(x), lambda: sparse(x)])
        ratio = seconds[0] / seconds[1]
        return ratio >= _MARGIN, ratio, "measured"

    def _candidates(self, product: Product) -> tuple[Callable[[Tensor], Tensor], nn.Module]:
        matrix = SparseMatrix.from_dense(product.weight.flatten(1).numpy(), self._values, name=product.name)
        weight, bias = product.weight, product.bias
        if product.kind == "linear":
            return lambda x: nn.functional.linear(x, weight, bias), SparseLinear(matrix, bias)
        kernel = weight.shape[2:] if product.kind == "conv2d" else (1, weight.shape[2])
        sparse = SparseConv2d(
            matrix, bias, channels=weight.shape[1] * product.groups, kernel=kernel, groups=product.groups,
            stride=product.stride, padding=product.padding, dilation=product.dilation,
        )  # fmt: skip
        wide = weight.reshape(*weight.shape[:2], *kernel)
        top, left, bottom, right = product.padding

        def dense(x: Tensor) -> Tensor:
            if (top, left) != (bottom, right):
                x = nn.functional.pad(x, (left, right, top, bottom))
            pads = (top, left) if (top, left) == (bottom, right) else (0, 0)
            return nn.functional.conv2d(x, wide, bias, product.stride, pads, product.dilation, product.groups)

        return dense, sparse

    def _interleaved(self, candidates: list[Callable[[], Any]]) -> list[float]:
        """Medians of calls in turn, so that a busy machine slows all of them."""
        times: list[list[float]] = [[] for _ in candidates]
        with torch.no_grad():
            for _ in range(_REPEATS + 1):
                for candidate, taken in zip(candidates, times, strict=True):
                    self._sweep.add_(1)
                    begun = time.perf_counter()
                    candidate()
                    taken.append(time.perf_counter() - begun)
        return [statistics.median(taken[1:]) for taken in times]


def seconds_of(candidates: list[Callable[[], Any]], repeats: int = _REPEATS) -> list[float]:
    """Medians of whole models, in turn, each warm from a call before."""
    times: list[list[float]] = [[] for _ in candidates]
    with torch.no_grad():
        for _ in range(repeats):
            for candidate, taken in zip(candidates, times, strict=True):
                candidate()
                begun = time.perf_counter()
                candidate()
                taken.append(time.perf_counter() - begun)
    return [statistics.median(taken) for taken in times]


def _concrete(shape: tuple[Any, ...], inputs: int) -> tuple[int, ...]:
    """The traced shape with numbers for its symbols; the first axis makes up the number of inputs."""
    sizes = [size if isinstance(size, int) else int(size.node.hint or 1) for size in shape]
    rest = 1
    for size in sizes[1:]:
        rest *= size
    return (max(1, inputs // max(rest, 1)), *sizes[1:])
