"""The idx format of the MNIST family: a magic number, the sizes, then bytes."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isogrid.errors import DataError
from isogrid.tasks.gzipped import read_plain_or_gzip

_UNSIGNED_BYTES = 0x08
_MOST_AXES = 64
"""That of numpy; the format could count to 255."""


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes in an idx file, gzip-compressed or not.

    Raises:
        DataError: the file is missing, damaged, or holds another type.
    """
    raw = read_plain_or_gzip(path, "an idx file")
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTES or not 0 < raw[3] <= _MOST_AXES:
        raise DataError(f"{path} is no idx file of unsigned bytes; its first bytes are {raw[:4].hex() or 'missing'}.")
    axes = raw[3]
    start = 4 + 4 * axes
    if len(raw) < start:
        raise DataError(f"{path} ends within its header, after {len(raw)} bytes.")
    shape = struct.unpack(f">{axes}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise DataError(f"{path} declares {math.prod(shape)} bytes of data and holds {len(raw) - start}.")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)
