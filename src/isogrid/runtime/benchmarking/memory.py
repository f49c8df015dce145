"""How much memory a model takes, seen from outside: a process of its own loads it and runs it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_SECONDS = 300


def memory_bytes(model: str, feeds: Mapping[str, Any], threads: int) -> int | None:
    """Bytes by which the resident memory of a process grows when it loads the model and runs it twice.

    None where this system does not tell, or the process fails.

    >>> memory_bytes("no such file", {}, 1) is None
    True
    """
    from isogrid.runtime.answers import write_arrays

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "feeds.npz")
        write_arrays(file, feeds)
        command = [sys.executable, "-m", __name__, model, str(file), str(threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)  # noqa: S603
            return int(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError):
            return None


def resident() -> int:
    """Bytes of this process that are in memory now."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise OSError("this system does not tell")


def _main(model: str, file: str, threads: int) -> None:
    from isogrid.runtime.session import Session, require_onnxruntime

    require_onnxruntime()
    with np.load(file) as found:
        feeds = {name: found[name] for name in found.files}
    before = resident()
    session = Session(model, threads=threads)
    for _ in range(2):
        session.run(feeds)
    print(resident() - before)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
