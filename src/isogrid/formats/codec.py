"""The bytes of a sparse tensor, wherever they are kept: scales, positions and values, without gaps, little-endian.

1. Scales, int8 only: for each index of the output axis the upper three bytes of a float32 (a scale has 16 significant
   bits, so that its lowest byte is zero).
2. Positions: ``rice``, the Golomb-Rice coded gaps between nonzeros (Golomb 1966, Rice 1979), the first byte being the
   Rice parameter; ``bitmap``, a bit for each weight, lowest bit first; ``dense``, nothing, because
3. values: float32, float16 or int8, of the nonzeros in C order, for ``dense`` of all weights.

The smallest of the three is taken.  Equal input gives equal bytes.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isogrid import _native
from isogrid.errors import FormatError
from isogrid.formats.numbers import DTYPES, Values
from isogrid.formats.sparse import SparseTensor, check_shape

Positions = Literal["rice", "bitmap", "dense"]


def encode(tensor: SparseTensor) -> tuple[Positions, bytes]:
    """How the positions are stored, and all bytes.

    Raises:
        FormatError: the tensor breaks a promise of its class.

    >>> positions, data = encode(SparseTensor.from_dense(np.eye(99)))
    >>> positions, len(data)
    ('rice', 496)
    """
    tensor.validate()
    places = np.ascontiguousarray(tensor.positions)
    rice = _native.rice_encode(places, tensor.size)
    sizes: dict[Positions, int] = {
        "dense": tensor.size * tensor.values.itemsize,
        "bitmap": (tensor.size + 7) // 8 + tensor.values.nbytes,
        "rice": len(rice) + tensor.values.nbytes,
    }
    kind = min(sizes, key=lambda name: sizes[name])
    scale = _pack_scale(tensor.scale)
    if kind == "dense":
        return kind, scale + _little_endian(tensor.stored_dense())
    places_bytes = rice if kind == "rice" else _native.bitmap_encode(places, tensor.size)
    return kind, scale + places_bytes + _little_endian(tensor.values)


def decode(
    data: bytes, values: Values, positions: Positions, nonzeros: int, shape: tuple[int, ...], axis: int = 0
) -> SparseTensor:
    """The tensor that `encode` wrote, once everything that was announced has been found true.

    Raises:
        FormatError: the bytes are not what the other arguments say.

    >>> positions, data = encode(SparseTensor.from_dense(np.eye(9), "int8"))
    >>> decode(data, "int8", positions, 9, (9, 9)).nonzeros
    9
    """
    check_shape(shape)
    size = math.prod(shape)
    if nonzeros > size or axis >= len(shape):
        raise FormatError(f"{nonzeros} nonzeros, axis {axis} and shape {shape} do not go together")
    stored = size if positions == "dense" else nonzeros
    values_at = len(data) - stored * DTYPES[values].itemsize
    positions_at = 3 * shape[axis] if values == "int8" else 0
    if positions_at > values_at:
        raise FormatError(f"{len(data)} bytes are too few for its scales and values")
    scale = _unpack_scale(data[:positions_at]) if values == "int8" else None
    numbers: NDArray[Any] = np.frombuffer(data, DTYPES[values], offset=values_at).copy()
    places = _decode_positions(positions, data[positions_at:values_at], nonzeros, size, numbers)
    if positions == "dense":
        numbers = numbers[places]
    tensor = SparseTensor(shape, places, numbers, scale, axis)
    tensor.validate()
    return tensor


def _decode_positions(
    kind: Positions, data: bytes, nonzeros: int, size: int, values: NDArray[Any]
) -> NDArray[np.int64]:
    if kind == "dense":
        found = np.flatnonzero(values).astype(np.int64, copy=False)
        if data or len(found) != nonzeros:
            raise FormatError(f"it has {len(found)} nonzeros where {nonzeros} were announced")
        return found
    decoder = _native.rice_decode if kind == "rice" else _native.bitmap_decode
    try:
        positions: NDArray[np.int64] = decoder(data, nonzeros, size)
    except ValueError as problem:
        raise FormatError(f"its positions are damaged ({str(problem).rstrip('.')})") from None
    return positions


def _pack_scale(scale: NDArray[np.float32] | None) -> bytes:
    if scale is None:
        return b""
    return scale.astype("<f4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()


def _unpack_scale(data: bytes) -> NDArray[np.float32]:
    padded = np.zeros((len(data) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return padded.reshape(-1).view("<f4")


def _little_endian(array: NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
