"""Second moments of a layer's inputs, summed over the calibration data."""

from __future__ import annotations

import torch
from torch import Tensor

from isogrid.errors import DataError, UnsupportedError
from isogrid.sparsify.calibrated.calls import Call


class Moments:
    """Adds up ``X.T @ X`` ``[groups, K, K]`` or, with `diagonal`, only its diagonal ``[groups, K]``.

    Groups are those of a convolution, or slices of a weight's rows that are applied to inputs of their own.  Sums are
    float32, or float64 for float64 weights.
    """

    def __init__(self, name: str, outputs: int, dtype: torch.dtype, *, diagonal: bool) -> None:
        self._name, self._outputs, self._dtype, self._diagonal = name, outputs, dtype, diagonal
        self._sums: dict[tuple[int, int], Tensor] = {}

    def add(self, call: Call) -> None:
        """Count a call's inputs."""
        key = (call.start, call.rows)
        for portion in call.geometry.rows(call.inputs):
            rows = portion.to(self._dtype)
            sums = self._sums.get(key)
            if self._diagonal:
                squares = rows.square().sum(dim=1)
                self._sums[key] = squares if sums is None else sums.add_(squares)
            elif sums is None:
                self._sums[key] = rows.mT @ rows
            elif len(rows) == 1:
                sums[0].addmm_(rows[0].T, rows[0])
            else:
                sums.baddbmm_(rows.mT, rows)

    @property
    def total(self) -> Tensor:
        """The sums.

        Raises:
            DataError: they are not finite, or there are none.
            UnsupportedError: the weight was applied in slices that do not cut it evenly.
        """
        if not self._sums:
            raise DataError(
                f"{self._name} met no input once what comes before it was pruned; prune less, or give other data."
            )
        whole = self._sums.pop((0, self._outputs), None)
        total = whole
        if self._sums:
            total = torch.cat([self._sums[key] for key in self._even_slices()])
            total = total if whole is None else total + whole
        assert total is not None
        if not bool(torch.isfinite(total).all()):
            raise DataError(
                f"The squared inputs of {self._name} on the data are not finite; accepted are inputs whose sum of "
                f"squares fits {str(self._dtype).removeprefix('torch.')}."
            )
        return total

    def _even_slices(self) -> list[tuple[int, int]]:
        slices = sorted(self._sums)
        rows = slices[0][1]
        if slices != [(start, rows) for start in range(0, self._outputs, rows)]:
            raise UnsupportedError(
                f"{self._name} is applied in slices of its rows {slices} (start, rows); calibrated pruning takes "
                "slices of equal size that cover the weight, so leave it out with ignore=."
            )
        return slices
