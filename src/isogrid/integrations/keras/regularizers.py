"""Regularisers that Keras lacks, for ``kernel_regularizer=``: group lasso and Hoyer-square.

They are terms of the loss, which alone pull weights near zero and rarely to it; exact zeros come from `Sparsify`.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from isogrid.checks import is_number
from isogrid.errors import UsageError


@keras.saving.register_keras_serializable("isogrid")
class GroupLasso(keras.regularizers.Regularizer):
    """``lam * sum over groups of sqrt(size of group) * |w_group|_2`` (Yuan and Lin 2006, eq. 2.1).

    As `isogrid.GroupLasso`.  ``over="row"`` makes a group of each output unit (the last axis of a kernel),
    ``over="channel"`` of each input (the last but one), for kernels of Dense, Conv and recurrent layers.

    Args:
        lam: a finite strength >= 0, in units of loss per unit of the norm.
        over: ``"row"`` or ``"channel"``.

    Raises:
        UsageError: an option that is not accepted.

    >>> round(float(GroupLasso(0.5)(ops.array([[3.0, 0.0], [4.0, 0.0]]))), 4)
    3.5355
    """

    def __init__(self, lam: float = 1e-4, over: str = "row") -> None:
        _check_strength("GroupLasso", lam)
        if over not in ("row", "channel"):
            raise UsageError(f"GroupLasso got over={over!r}; accepted are 'row' and 'channel'.")
        self.lam, self.over = float(lam), over

    def __call__(self, x: Any) -> Any:
        axes = len(x.shape)
        kept = axes - 1 if self.over == "row" else axes - 2
        groups = [axis for axis in range(axes) if axis != kept]
        size = math.prod(x.shape[axis] for axis in groups)
        squares = ops.sum(ops.square(x), axis=groups)
        # The root's slope at zero is infinite: there the norm's is taken as zero, as PyTorch does.
        alive = squares > 0
        norms = ops.where(alive, ops.sqrt(ops.where(alive, squares, ops.ones_like(squares))), ops.zeros_like(squares))
        return self.lam * math.sqrt(size) * ops.sum(norms)

    def get_config(self) -> dict[str, Any]:
        """The options, for Keras' files."""
        return {"lam": self.lam, "over": self.over}


@keras.saving.register_keras_serializable("isogrid")
class HoyerSquare(keras.regularizers.Regularizer):
    """``lam * (sum |w|)^2 / sum w^2``: between 1 and the number of weights, and the same for any scale of them.

    Unlike L1 it does not shrink the weights that stay.  Source: Yang, Wen and Li 2020, "DeepHoyer", arXiv:1908.09979,
    equation 3.

    Args:
        lam: a finite strength >= 0, in units of loss.

    Raises:
        UsageError: a strength that is not accepted.

    >>> float(HoyerSquare(1.0)(ops.array([[3.0, 0.0], [0.0, 3.0]])))
    2.0
    """

    def __init__(self, lam: float = 1e-4) -> None:
        _check_strength("HoyerSquare", lam)
        self.lam = float(lam)

    def __call__(self, x: Any) -> Any:
        squares = ops.sum(ops.square(x))
        safe = ops.where(squares > 0, squares, ops.ones_like(squares))
        return self.lam * ops.square(ops.sum(ops.abs(x))) / safe

    def get_config(self) -> dict[str, Any]:
        """The options, for Keras' files."""
        return {"lam": self.lam}


def _check_strength(owner: str, lam: Any) -> None:
    if not (is_number(lam) and lam >= 0):
        raise UsageError(f"{owner} got lam={lam!r}; accepted is a finite number >= 0.")
