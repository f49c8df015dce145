"""Penalties: terms that are added to the loss and pull weights towards zero, and their proximal steps.

The subgradient update of L1 is ``w <- w - a (dL + lam sign w)``.  Some texts print it with a plus before the last
term, which would ascend.  It only ever comes *near* zero and steps over it; exact zeros come from the proximal step
``w <- sign(w) max(|w| - a lam, 0)`` that follows a gradient step of the loss alone (ISTA; Daubechies, Defrise and
De Mol 2004, doi:10.1002/cpa.20042; Parikh and Boyd 2014, "Proximal Algorithms", section 6.5).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from isogrid.checks import is_number
from isogrid.errors import UsageError


@dataclass(frozen=True)
class Penalty(ABC):
    """A penalty on one weight tensor in canonical view (axis 0 = output, axis 1 = input, then kernel axes).

    Every field of type float is a finite strength of zero or more, in units of loss per unit of the norm; anything else
    raises ``UsageError``.
    """

    makes_zeros: ClassVar[bool]
    """Whether the proximal step sets weights to exactly zero."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type not in ("float", float):
                continue
            value = getattr(self, field.name)
            if not (is_number(value) and value >= 0):
                raise UsageError(f"{type(self).__name__} got {field.name}={value!r}; accepted is a finite number >= 0.")

    @abstractmethod
    def value(self, weight: Tensor) -> Tensor:
        """The penalty of ``weight``, a differentiable scalar of its dtype."""

    @abstractmethod
    def shrink_(self, weight: Tensor, step: float | Tensor) -> None:
        """The proximal step in place: the minimiser of ``|u - w|^2 / (2 step) + value(u)``.

        ``step`` is the optimiser's step size, a number or a tensor of ``weight``'s shape (adaptive optimisers have one
        for each weight).
        """


@dataclass(frozen=True)
class L1(Penalty):
    """``lam * sum |w|`` (Tibshirani 1996, "Regression shrinkage and selection via the lasso").

    >>> import torch
    >>> weight = torch.tensor([[0.5, -0.02]])
    >>> round(float(L1(0.1).value(weight)), 4)
    0.052
    >>> L1(0.1).shrink_(weight, step=1.0); weight
    tensor([[0.4000, -0.0000]])
    """

    lam: float = 1e-4
    makes_zeros: ClassVar[bool] = True

    def value(self, weight: Tensor) -> Tensor:
        return self.lam * weight.abs().sum()

    def shrink_(self, weight: Tensor, step: float | Tensor) -> None:
        _soft_threshold_(weight, step * self.lam)


@dataclass(frozen=True)
class L2(Penalty):
    """``lam * sum w^2`` (Hoerl and Kennard 1970, "Ridge regression").

    It shrinks large weights most and small ones hardly at all, so it makes **no** exact zeros, by gradient or by
    proximal step.

    >>> import torch
    >>> float(L2(0.5).value(torch.tensor([[2.0]])))
    2.0
    """

    lam: float = 1e-4
    makes_zeros: ClassVar[bool] = False

    def value(self, weight: Tensor) -> Tensor:
        return self.lam * weight.square().sum()

    def shrink_(self, weight: Tensor, step: float | Tensor) -> None:
        weight.div_(1 + 2 * self.lam * step)


@dataclass(frozen=True)
class ElasticNet(Penalty):
    """``l1 * sum |w| + l2 * sum w^2`` (Zou and Hastie 2005, doi:10.1111/j.1467-9868.2005.00503.x).

    >>> import torch
    >>> float(ElasticNet(l1=1.0, l2=0.5).value(torch.tensor([[-2.0]])))
    4.0
    """

    l1: float = 1e-4
    l2: float = 1e-4
    makes_zeros: ClassVar[bool] = True

    def value(self, weight: Tensor) -> Tensor:
        return self.l1 * weight.abs().sum() + self.l2 * weight.square().sum()

    def shrink_(self, weight: Tensor, step: float | Tensor) -> None:
        _soft_threshold_(weight, step * self.l1)
        weight.div_(1 + 2 * self.l2 * step)


@dataclass(frozen=True)
class GroupLasso(Penalty):
    """``lam * sum over groups of sqrt(size of group) * |w_group|_2`` (Yuan and Lin 2006, eq. 2.1).

    ``over="row"`` makes a group of each output unit (axis 0), ``over="channel"`` of each input (axis 1).  The
    proximal step takes whole groups to zero.  With adaptive optimisers, whose step sizes ``a`` differ within a group, a
    group goes to zero exactly where zero minimises ``sum (u - w)^2 / (2 a) + value(u)``, that is where ``|w / a|_2 <=
    lam sqrt(size of group)``; what stays shrinks by the factor ``1 - lam sqrt(size) / |w / a|_2``, which is exact where
    the step sizes are the same (elsewhere there is no closed form).

    >>> import torch
    >>> weight = torch.tensor([[3.0, 4.0], [0.03, 0.04]])
    >>> GroupLasso(0.1).shrink_(weight, step=1.0); weight[1]
    tensor([0., 0.])
    """

    lam: float = 1e-4
    over: str = "row"
    makes_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over not in ("row", "channel"):
            raise UsageError(f"GroupLasso got over={self.over!r}; accepted are 'row' and 'channel'.")

    def _axes(self, weight: Tensor) -> tuple[int, ...]:
        kept = 0 if self.over == "row" else 1
        return tuple(axis for axis in range(weight.dim()) if axis != kept)

    def _root_size(self, weight: Tensor) -> float:
        return math.sqrt(weight.numel() / max(1, weight.shape[0 if self.over == "row" else 1]))

    def value(self, weight: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(weight, dim=self._axes(weight))
        return norms.sum() * (self.lam * self._root_size(weight))

    def shrink_(self, weight: Tensor, step: float | Tensor) -> None:
        axes, wide = self._axes(weight), torch.promote_types(weight.dtype, torch.float32)
        if isinstance(step, Tensor):
            # Weights that are zero, as pruned ones are, have no say, whatever their step size.
            scaled = torch.where(weight == 0, 0, weight.to(wide) / step)
            norms = torch.linalg.vector_norm(scaled, dim=axes, keepdim=True)
        else:
            norms = torch.linalg.vector_norm(weight, dim=axes, keepdim=True, dtype=wide) / step
        threshold = self.lam * self._root_size(weight)
        weight.mul_(torch.where(norms > threshold, 1 - threshold / norms, 0.0))


def _soft_threshold_(weight: Tensor, threshold: float | Tensor) -> None:
    shrunk = (weight.abs() - threshold).clamp_(min=0)
    weight.copy_(shrunk.copysign_(weight))
