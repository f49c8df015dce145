"""What a weight is multiplied by: the input of a linear layer or of a convolution as rows of a matrix.

With these rows ``X`` of shape ``[n, K]`` a layer's output is ``X @ W.T``, where ``W`` is the canonical weight flattened
to ``[outputs, K]``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

CHUNK = 1 << 24
"""Numbers of unfolded input that are in memory at a time."""


class Geometry(ABC):
    """How a layer reads its input.  Equal geometries make equal rows of equal inputs."""

    groups: int = 1

    @abstractmethod
    def rows(self, x: Tensor) -> Iterator[Tensor]:
        """The rows of `x` in portions ``[groups, n, K]``."""


@dataclass(frozen=True)
class LinearGeometry(Geometry):
    """Rows are the input's last axis.

    >>> import torch
    >>> [portion.shape for portion in LinearGeometry().rows(torch.ones(2, 3, 8))]
    [torch.Size([1, 6, 8])]
    """

    def rows(self, x: Tensor) -> Iterator[Tensor]:
        yield x.reshape(1, -1, x.shape[-1])


@dataclass(frozen=True)
class ConvGeometry(Geometry):
    """A row is what the kernel covers at one place of the output, ordered ``[inputs of the group, kernel places]``.

    Attributes:
        kernel, stride, dilation: one number for each axis of space.
        padding: before and after, for each axis of space; may be negative, which crops.
        groups: of the convolution.
        stuffing: zeros put between neighbours, plus one: a transposed convolution is an ordinary one, of stride 1 and
            with its kernel flipped, over an input stuffed with zeros.
        flipped: whether the kernel is flipped.

    >>> import torch
    >>> geometry = ConvGeometry((3,), (1,), (1,), ((1, 1),))
    >>> next(geometry.rows(torch.arange(1.0, 4).reshape(1, 1, 3)))[0].tolist()
    [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 0.0]]
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int = 1
    stuffing: tuple[int, ...] = ()
    flipped: bool = False

    def rows(self, x: Tensor) -> Iterator[Tensor]:
        axes = len(self.kernel)
        if x.dim() == axes + 1:  # one sample without an axis for the batch
            x = x.unsqueeze(0)
        windows = self._windows(x)
        samples, channels, *out = windows.shape[: 2 + axes]
        line = channels * math.prod(self.kernel) * math.prod(out[1:])
        lines = out[0] if line * out[0] <= CHUNK else max(1, CHUNK // line)
        together = max(1, CHUNK // (line * lines))
        order = (0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
        for first in range(0, samples, together):
            for top in range(0, out[0], lines):
                seen = windows[first : first + together, :, top : top + lines].permute(order)
                if self.flipped:
                    seen = seen.flip(tuple(range(2 + axes, 2 + 2 * axes)))
                width = channels // self.groups * math.prod(self.kernel)
                yield seen.reshape(-1, self.groups, width).transpose(0, 1)

    def _windows(self, x: Tensor) -> Tensor:
        """A view ``[samples, channels, *output, *kernel]`` of the padded input."""
        if any(step > 1 for step in self.stuffing):
            sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], self.stuffing, strict=True)]
            stuffed = x.new_zeros(*x.shape[:2], *sizes)
            stuffed[(slice(None), slice(None), *(slice(None, None, step) for step in self.stuffing))] = x
            x = stuffed
        x = functional.pad(x, [amount for pair in reversed(self.padding) for amount in pair])
        for axis, (size, step, spread) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            x = x.unfold(2 + axis, spread * (size - 1) + 1, step)[..., ::spread]
        return x


def conv_geometry(
    weight: Tensor,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> ConvGeometry:
    """How ``torch.nn.functional.conv*d`` with these arguments reads its input."""
    kernel = tuple(weight.shape[2:])
    spread = _each(dilation, len(kernel))
    if padding == "same":
        totals = [step * (size - 1) for size, step in zip(kernel, spread, strict=True)]
        pairs = tuple((total // 2, total - total // 2) for total in totals)
    else:
        amounts = _each(0 if isinstance(padding, str) else padding, len(kernel))
        pairs = tuple((amount, amount) for amount in amounts)
    return ConvGeometry(kernel, _each(stride, len(kernel)), spread, pairs, groups)


def conv_transpose_geometry(
    weight: Tensor,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
) -> ConvGeometry:
    """How ``torch.nn.functional.conv_transpose*d`` with these arguments and one group reads its input."""
    kernel = tuple(weight.shape[2:])
    spread = _each(dilation, len(kernel))
    reach = [step * (size - 1) for size, step in zip(kernel, spread, strict=True)]
    pairs = tuple(
        (far - cut, far - cut + more)
        for far, cut, more in zip(reach, _each(padding, len(kernel)), _each(output_padding, len(kernel)), strict=True)
    )
    ones = (1,) * len(kernel)
    return ConvGeometry(kernel, ones, spread, pairs, 1, _each(stride, len(kernel)), flipped=True)


def _each(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    """One number for each axis."""
    listed = (value,) if isinstance(value, int) else tuple(value)
    return listed * axes if len(listed) == 1 else listed
