"""Reading a file that may be gzip-compressed or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from isogrid.errors import DataError


def read_plain_or_gzip(path: Path, accepted: str, origin: str = "") -> bytes:
    """The bytes of a file, decompressed if they are gzip's.

    Args:
        path: of the file.
        accepted: what the file should be, as the error says it.
        origin: who names the file, for the error: ``", which VARIABLE names,"``.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise DataError(
            f"{path}{origin} cannot be read ({why}); accepted is {accepted}, plain or gzip-compressed."
        ) from None
