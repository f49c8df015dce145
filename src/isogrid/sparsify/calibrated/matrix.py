"""A weight as the matrix that multiplies rows of inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MatrixView:
    """How a canonical weight ``[outputs, inputs, *kernel]`` becomes ``[groups, outputs / groups, K]`` and back.

    ``K`` is inputs times kernel places, in that order, as in `isogrid.patterns.Block`.  With `inputs_last` it is kernel
    places times inputs, so that neighbouring columns are neighbouring inputs at one place, as
    `isogrid.patterns.NofM` groups them.

    >>> view = MatrixView((4, 2, 3), groups=2, inputs_last=True)
    >>> weight = torch.arange(24.0).reshape(4, 2, 3)
    >>> view.matrix(weight)[0, 0].tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    >>> torch.equal(view.canonical(view.matrix(weight)), weight)
    True
    """

    shape: tuple[int, ...]
    groups: int = 1
    inputs_last: bool = False

    @property
    def places(self) -> int:
        """Kernel places."""
        return math.prod(self.shape[2:])

    @property
    def columns(self) -> int:
        """K."""
        return self.shape[1] * self.places

    def matrix(self, weight: Tensor) -> Tensor:
        """A canonical tensor as ``[groups, outputs / groups, K]``; a view where possible."""
        flat = weight.reshape(self.shape[0], self.shape[1], self.places)
        if self.inputs_last:
            flat = flat.transpose(1, 2)
        return flat.reshape(self.groups, self.shape[0] // self.groups, self.columns)

    def canonical(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        if self.inputs_last:
            return matrix.reshape(self.shape[0], self.places, self.shape[1]).transpose(1, 2).reshape(self.shape)
        return matrix.reshape(self.shape)

    def moments(self, sums: Tensor) -> Tensor:
        """Second moments ``[groups, K]`` or ``[groups, K, K]`` of inputs in kernel order, in this view's order."""
        if not self.inputs_last or self.places == 1:
            return sums
        order = torch.arange(self.columns, device=sums.device).reshape(self.shape[1], self.places).T.flatten()
        return sums[:, order] if sums.dim() == 2 else sums[:, order][:, :, order]
