"""A small grey picture as a data URI, for the samples on which the models disagree."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_LARGEST_SIDE = 64


def thumbnail(image: Sequence[Sequence[float]]) -> str:
    """Return ``image`` (rows of grey values, any range) as a PNG data URI, stretched from black to white.

    Pictures with a side above 64 pixels are thinned out.

    >>> thumbnail([[0.0, 1.0], [1.0, 0.0]]).split(",")[0]
    'data:image/png;base64'
    """
    values: npt.NDArray[np.float64] = np.asarray(image, dtype=np.float64)
    step = math.ceil(max(values.shape) / _LARGEST_SIDE)
    values = values[::step, ::step]
    low, high = float(values.min()), float(values.max())
    # A picture of one grey has nothing to stretch and becomes black.
    grey = np.round((values - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    height, width = len(grey), len(grey[0])
    # Each row of a PNG begins with its filter, here 0: none.
    rows = np.concatenate([np.zeros((height, 1), dtype=np.uint8), grey], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (
        _chunk(b"IHDR", header),
        _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
        _chunk(b"IEND", b""),
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode("ascii")


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
