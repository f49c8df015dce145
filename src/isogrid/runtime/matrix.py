"""A sparse matrix as plain arrays: what the native operations are made from, and what travels in a `state_dict`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isogrid.errors import UsageError
from isogrid.formats.numbers import check_finite, round_fp16

Values = str
"""How weights are stored: ``"fp32"``, ``"fp16"`` or ``"int8"``; the arithmetic is float32 in any case."""

VALUES = ("fp32", "fp16", "int8")


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """Compressed rows.

    Attributes:
        rows, columns: its shape.
        row_begin: int64 ``[rows + 1]``; row ``r`` owns the entries ``row_begin[r] .. row_begin[r + 1] - 1``.
        column: int32 ``[entries]``, ascending within a row.
        values: ``[entries]`` of float32, uint16 (the bits of float16) or int8.
        scales: float32 ``[rows]`` that int8 codes are multiplied by; None otherwise.

    >>> matrix = SparseMatrix.from_dense(np.array([[0.0, 2.0], [0.0, 0.0], [-1.0, 3.0]], np.float32))
    >>> matrix.column.tolist(), matrix.row_begin.tolist()
    ([1, 0, 1], [0, 1, 1, 3])
    """

    rows: int
    columns: int
    row_begin: npt.NDArray[np.int64]
    column: npt.NDArray[np.int32]
    values: npt.NDArray[Any]
    scales: npt.NDArray[np.float32] | None = None

    @classmethod
    def from_dense(cls, weight: npt.NDArray[Any], values: Values = "fp32", *, name: str = "weight") -> SparseMatrix:
        """The nonzeros of a two-dimensional array, its values rounded to what they are stored as.

        int8 is symmetric with one scale a row: the largest magnitude becomes 127.  Weights that were rounded like that
        before (`isogrid.quantize`) stay exactly what they are; a weight that rounds to zero stays in the matrix.
        ``name`` is what an error calls the weight.

        Raises:
            TrainingError: a weight that is to be rounded is not finite.
            UnsupportedError: a weight is beyond 65504, the largest fp16 number.
            UsageError: not two axes, or unknown values.
        """
        if weight.ndim != 2:
            raise UsageError(f"A sparse matrix got an array of {weight.ndim} axes; accepted are 2.")
        if values not in VALUES:
            raise UsageError(f"Unknown values {values!r}: accepted are {', '.join(VALUES)}.")
        dense = np.ascontiguousarray(weight, dtype=np.float32)
        row, column = np.nonzero(dense)
        row_begin = np.zeros(dense.shape[0] + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=dense.shape[0]), out=row_begin[1:])
        nonzero: npt.NDArray[Any] = dense[row, column]
        scales = None
        if values == "fp16":
            nonzero = round_fp16(nonzero, name=name).view(np.uint16)
        elif values == "int8":
            check_finite(nonzero, name)
            largest = np.abs(dense).max(axis=1, initial=0.0)
            scales = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
            nonzero = np.rint(nonzero / scales[row]).astype(np.int8)
        rows, columns = dense.shape
        return cls(rows, columns, row_begin, column.astype(np.int32), nonzero, scales)

    def to_dense(self) -> npt.NDArray[np.float32]:
        """The float32 array ``[rows, columns]`` that the operations compute with."""
        dense = np.zeros((self.rows, self.columns), np.float32)
        row = np.repeat(np.arange(self.rows), np.diff(self.row_begin))
        values = self.values.view(np.float16) if self.values.dtype == np.uint16 else self.values
        scaled = values.astype(np.float32)
        if self.scales is not None:
            scaled *= self.scales[row]
        dense[row, self.column] = scaled
        return dense

    @property
    def entries(self) -> int:
        """How many weights are stored."""
        return int(self.column.size)

    @property
    def bytes(self) -> int:
        """Of all its arrays."""
        arrays = (self.row_begin, self.column, self.values, self.scales)
        return sum(array.nbytes for array in arrays if array is not None)
