"""Penalties whose proximal step makes exact zeros, for `Aware`: their step in ``keras.ops``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

from keras import ops

from isogrid.checks import is_number
from isogrid.errors import UsageError


@dataclass(frozen=True)
class Penalty(ABC):
    """A penalty on single weights.

    Every field is a finite strength of zero or more, in units of loss per unit of the norm; anything else raises
    ``UsageError``.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (is_number(value) and value >= 0):
                raise UsageError(f"{type(self).__name__} got {field.name}={value!r}; accepted is a finite number >= 0.")

    @abstractmethod
    def shrink(self, weight: Any, step: Any) -> Any:
        """The proximal step: the minimiser of ``|u - w|^2 / (2 step) + value(u)``, for a step size that broadcasts."""


@dataclass(frozen=True)
class L1(Penalty):
    """``lam * sum |w|`` (Tibshirani 1996, "Regression shrinkage and selection via the lasso").

    >>> bool(L1(0.1).shrink(ops.array([0.5, -0.02]), 1.0)[1] == 0)
    True
    """

    lam: float = 1e-4

    def shrink(self, weight: Any, step: Any) -> Any:
        return _soft_threshold(weight, step * self.lam)


@dataclass(frozen=True)
class ElasticNet(Penalty):
    """``l1 * sum |w| + l2 * sum w^2`` (Zou and Hastie 2005, doi:10.1111/j.1467-9868.2005.00503.x).

    >>> bool(ElasticNet(l1=1.0, l2=0.5).shrink(ops.array([0.5]), 1.0)[0] == 0)
    True
    """

    l1: float = 1e-4
    l2: float = 1e-4

    def shrink(self, weight: Any, step: Any) -> Any:
        return _soft_threshold(weight, step * self.l1) / (1 + 2 * self.l2 * step)


def _soft_threshold(weight: Any, threshold: Any) -> Any:
    return ops.sign(weight) * ops.maximum(ops.abs(weight) - threshold, 0)
