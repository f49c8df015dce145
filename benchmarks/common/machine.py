"""What was measured where: the processor, the libraries, and what else was going on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

LIBRARIES = ("isogrid", "torch", "numpy", "onnxruntime", "openvino")


def processor() -> str:
    """Its name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def description() -> dict[str, Any]:
    """For the file of results."""
    return {
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


class Neighbours:
    """How much of the machine other processes took meanwhile: the first thing to know about a strange number."""

    def __init__(self) -> None:
        self._begun = self._ticks()

    @staticmethod
    def _ticks() -> tuple[float, float] | None:
        try:
            fields = [float(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        total = sum(fields)
        idle = fields[3] + fields[4]
        own = sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")
        return total, total - idle - own

    @property
    def share(self) -> float | None:
        """Of all processors' time since this object was made; None where the system does not say."""
        now = self._ticks()
        if now is None or self._begun is None or now[0] <= self._begun[0]:
            return None
        return max(0.0, (now[1] - self._begun[1]) / (now[0] - self._begun[0]))
