"""Packed weights: one sparse matrix as the bytes of an initializer of an ONNX file.

=======  =======  ==========================================================================
offset   type     what
=======  =======  ==========================================================================
0        8 bytes  ``isogrid`` and the version of this layout, the byte 1
8        u8       values: 0 float32, 1 float16, 2 int8
9        u8       positions: 0 Rice, 1 bitmap, 2 dense
10       u16      0
12       u32      rows, 1 to 2**28
16       u32      columns, 1 to 2**28; rows times columns at most 2**40
20       u32      0
24       u64      nonzeros
32                scales, positions and values as `isogrid.formats.codec` has them
=======  =======  ==========================================================================

All little-endian.  The operators that compute with it are those of docs/decisions/0009-packed-onnx.md; their readers
check what is checked here.
"""

from __future__ import annotations

import struct

import numpy as np

from isogrid.errors import FormatError
from isogrid.formats.codec import Positions, decode, encode
from isogrid.formats.numbers import Values
from isogrid.formats.sparse import SparseTensor

LARGEST_EXTENT = 2**28
"""The most rows, and the most columns."""

_MAGIC = b"isogrid\x01"
_HEADER = struct.Struct("<8sBBHIIIQ")
_VALUES: tuple[Values, ...] = ("fp32", "fp16", "int8")
_POSITIONS: tuple[Positions, ...] = ("rice", "bitmap", "dense")


def pack_matrix(tensor: SparseTensor) -> bytes:
    r"""The packed form of a sparse matrix; equal matrices give equal bytes.

    Raises:
        FormatError: not two axes of 1 to 2**28, scales that are not those of the rows, a value that is not finite, or
            another broken promise of `SparseTensor`.

    >>> data = pack_matrix(SparseTensor.from_dense(np.eye(99, dtype=np.float32), "fp16"))
    >>> data[:8], len(data)
    (b'isogrid\x01', 330)
    """
    _check(tensor)
    positions, body = encode(tensor)
    rows, columns = tensor.shape
    header = _HEADER.pack(
        _MAGIC, _VALUES.index(tensor.kind), _POSITIONS.index(positions), 0, rows, columns, 0, tensor.nonzeros
    )
    return header + body


def unpack_matrix(data: bytes) -> SparseTensor:
    """The matrix that `pack_matrix` packed.

    Raises:
        FormatError: the bytes are damaged, of another version, or no packed matrix.

    >>> unpack_matrix(pack_matrix(SparseTensor.from_dense(np.array([[0.0, 2.0]])))).to_dense().tolist()
    [[0.0, 2.0]]
    """
    if len(data) < _HEADER.size or data[:7] != _MAGIC[:7]:
        raise FormatError("A packed matrix cannot be read: the bytes are those of something else.")
    magic, values, positions, zero, rows, columns, zeros, nonzeros = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise FormatError(f"A packed matrix cannot be read: its layout has version {magic[7]}, and this one reads 1.")
    if values >= len(_VALUES) or positions >= len(_POSITIONS) or zero or zeros:
        raise FormatError("A packed matrix cannot be read: its header holds numbers that mean nothing.")
    if not (0 < rows <= LARGEST_EXTENT and 0 < columns <= LARGEST_EXTENT):
        raise FormatError(f"A packed matrix cannot be read: {rows} x {columns} is not between 1 x 1 and 2**28 x 2**28.")
    try:
        tensor = decode(data[_HEADER.size :], _VALUES[values], _POSITIONS[positions], nonzeros, (rows, columns))
        _check(tensor)
    except FormatError as problem:
        raise FormatError(f"A packed matrix cannot be read: {str(problem).rstrip('.')}.") from None
    return tensor


def _check(tensor: SparseTensor) -> None:
    if len(tensor.shape) != 2 or not all(0 < extent <= LARGEST_EXTENT for extent in tensor.shape):
        raise FormatError(f"A packed matrix has two axes of 1 to 2**28, not the shape {tensor.shape}.")
    if tensor.scale is not None and tensor.axis != 0:
        raise FormatError(f"A packed matrix has one scale a row, not scales along axis {tensor.axis}.")
    if not np.all(np.isfinite(tensor.values)):
        raise FormatError("A packed matrix has finite values, and one of these is not.")
