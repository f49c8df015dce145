"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from isogrid.errors import RunError


def write_atomically(path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write `data` to `path` so that a reader sees the old file or the whole new one, even after a power cut.

    The bytes go to a temporary file in the same folder, reach the disk, and the file is then renamed over `path`.
    When anything fails the temporary file is removed and `path` is as it was.

    Args:
        path: the file to write; its folder must exist.
        data: the contents, or a function that writes them to the open binary file it is given.

    Raises:
        RunError: the file cannot be written (no such folder, no permission, disk full, read-only).  What a function
            given as `data` raises beside ``OSError`` passes through.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "a.bin", b"abc")
    ...     (Path(folder) / "a.bin").read_bytes()
    b'abc'
    """
    target = Path(path)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(8)}.part"
    try:
        with temporary.open("xb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as problem:
        raise RunError(
            f"{target} cannot be written ({problem.strerror or problem}); "
            "its folder must exist, allow writing and have room."
        ) from problem
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """The rename itself must reach the disk; systems that cannot open folders do it without being asked."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
