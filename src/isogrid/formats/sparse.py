"""The canonical sparse tensor: the places of the nonzeros and their values, and nothing about how they are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import FormatError, UsageError
from isogrid.formats.numbers import DTYPES, SCALE_BITS, SMALLEST_SCALE, Values, round_fp16, round_int8, to_float32

MAX_SIZE = 2**40
"""The most weights a tensor may claim to have; what claims more is taken for damage."""

_SCALE_TAIL = np.uint32(2 ** (24 - SCALE_BITS) - 1)


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """A tensor of which only the nonzeros are kept.

    Attributes:
        shape: of the whole tensor, at least one axis.
        positions: int64 ``[nonzeros]``, the flat places of the nonzeros in C order, strictly ascending.
        values: float32, float16 or int8 ``[nonzeros]``, never zero.
        scale: float32 ``[shape[axis]]`` where values are int8 (then weight = value * scale of its row), else None.
        axis: the output axis, along which the scales lie.

    >>> tensor = SparseTensor.from_dense(np.array([[0.0, 2.0], [0.0, -1.0]]))
    >>> tensor.positions.tolist(), tensor.values.tolist()
    ([1, 3], [2.0, -1.0])
    """

    shape: tuple[int, ...]
    positions: NDArray[np.int64]
    values: NDArray[Any]
    scale: NDArray[np.float32] | None = None
    axis: int = 0

    @classmethod
    def from_dense(
        cls, array: NDArray[Any], values: Values = "fp32", axis: int = 0, *, name: str = "weight"
    ) -> SparseTensor:
        """The nonzeros of `array` (at least one axis), rounded to `values`; -0.0 and what rounds to zero are zeros.

        Raises:
            UsageError: `array` has no axis.
            TrainingError, UnsupportedError: `array` cannot be rounded so (see `isogrid.formats.numbers`); `name` is
                what the message calls it.

        >>> SparseTensor.from_dense(np.array([[0.0, 1.27], [0.5, 0.0]]), "int8").values.tolist()
        [127, 127]
        """
        if array.ndim == 0:
            raise UsageError(f"{name} has no axis; a sparse tensor has at least one.")
        scale = None
        stored: NDArray[Any]
        if values == "int8":
            stored, scale = round_int8(array, axis, name=name)
        elif values == "fp16":
            stored = round_fp16(array, name=name)
        else:
            stored = to_float32(array, name=name)
        flat = stored.reshape(-1)
        positions = np.flatnonzero(flat).astype(np.int64, copy=False)
        return cls(tuple(array.shape), positions, flat[positions], scale, axis % array.ndim)

    @property
    def size(self) -> int:
        """Weights of the whole tensor, zeros among them."""
        return math.prod(self.shape)

    @property
    def nonzeros(self) -> int:
        """Weights that are not zero."""
        return len(self.positions)

    @property
    def kind(self) -> Values:
        """The number format of the values."""
        return next(kind for kind, dtype in DTYPES.items() if dtype == self.values.dtype)

    def stored_dense(self) -> NDArray[Any]:
        """All values, zeros among them, as they are stored (int8 codes for int8), in the whole shape.

        Raises:
            FormatError: the shape is too large for this machine's memory.
        """
        try:
            flat = np.zeros(self.size, self.values.dtype)
        except (MemoryError, ValueError):
            raise FormatError(f"A tensor of shape {self.shape} does not fit into memory.") from None
        flat[self.positions] = self.values
        return flat.reshape(self.shape)

    def to_dense(self) -> NDArray[np.float32]:
        """The float32 array that this tensor stands for, exactly.

        Raises:
            FormatError: the shape is too large for this machine's memory.

        >>> SparseTensor.from_dense(np.array([[0.0, 1.0]]), "fp16").to_dense().tolist()
        [[0.0, 1.0]]
        """
        values = self.values.astype(np.float32)
        if self.scale is not None:
            stride = math.prod(self.shape[self.axis + 1 :])
            values *= self.scale[self.positions // stride % self.shape[self.axis]]
        dense: NDArray[np.float32] = SparseTensor(self.shape, self.positions, values).stored_dense()
        return dense

    def validate(self) -> None:
        """Check every promise of this class.

        Raises:
            FormatError: one is broken; the message says which.

        >>> SparseTensor((4,), np.array([3, 9]), np.ones(2, np.float32)).validate()
        Traceback (most recent call last):
            ...
        isogrid.errors.FormatError: Position 9 is outside a tensor of shape (4,).
        """
        check_shape(self.shape)
        if self.positions.dtype != np.int64 or self.positions.ndim != 1:
            raise FormatError(f"Positions must be a row of int64, not {self.positions.dtype} {self.positions.shape}.")
        if self.values.dtype not in DTYPES.values() or self.values.shape != self.positions.shape:
            raise FormatError(
                f"{self.nonzeros} positions need as many float32, float16 or int8 values, "
                f"not {self.values.dtype} {self.values.shape}."
            )
        if self.nonzeros:
            if np.any(np.diff(self.positions) <= 0):
                raise FormatError("Positions must be strictly ascending.")
            for end in (int(self.positions[0]), int(self.positions[-1])):
                if not 0 <= end < self.size:
                    raise FormatError(f"Position {end} is outside a tensor of shape {self.shape}.")
            if not np.all(self.values):
                raise FormatError("A stored value is zero; only nonzeros are stored.")
            if self.kind == "int8" and np.min(self.values) == -128:
                raise FormatError("An int8 value is -128; codes go from -127 to 127.")
        self._validate_scale()

    def _validate_scale(self) -> None:
        if (self.scale is None) != (self.kind != "int8"):
            raise FormatError(f"int8 values have scales and others have none; these are {self.kind}.")
        if self.scale is None:
            return
        if not 0 <= self.axis < len(self.shape):
            raise FormatError(f"Axis {self.axis} is outside a tensor of shape {self.shape}.")
        if self.scale.dtype != np.float32 or self.scale.shape != (self.shape[self.axis],):
            raise FormatError(
                f"A tensor of shape {self.shape} needs {self.shape[self.axis]} float32 scales along axis {self.axis}, "
                f"not {self.scale.dtype} {self.scale.shape}."
            )
        if not np.all(np.isfinite(self.scale) & (self.scale >= SMALLEST_SCALE)):
            raise FormatError("A scale is not a finite positive number of at least 2**-126.")
        if np.any(np.ascontiguousarray(self.scale).view(np.uint32) & _SCALE_TAIL):
            raise FormatError(f"A scale has more than {SCALE_BITS} significant bits, so that products are not exact.")


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise `FormatError` unless `shape` is that of a tensor that can exist: 1 to 64 axes, at most 2**40 weights.

    >>> check_shape((2, 3))
    """
    # An extent of 0 must not hide huge ones beside it, which numpy refuses in its own words.
    if not 1 <= len(shape) <= 64 or min(shape) < 0 or math.prod(max(extent, 1) for extent in shape) > MAX_SIZE:
        raise FormatError(f"The shape {shape} is not accepted: 1 to 64 axes, none negative, and at most 2**40 weights.")
