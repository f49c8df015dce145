"""This machine's ceilings, measured by a small C++ program that is compiled where it runs."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "benchmarks"

LEVELS = ("L1", "L2", "L3", "DRAM")
_USUAL_BYTES = {"L1": 32 << 10, "L2": 512 << 10, "L3": 16 << 20}


class NoLimitsError(Exception):
    """The ceilings cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Limits:
    """What the machine can do at best with so many threads.

    Attributes:
        threads: that worked at once.
        multiply_adds: float32 multiply-adds a second.
        read: bytes read a second from each level of the memory.
        gathers: random 4-byte loads from L1 a second, whose 2-byte indices are loaded too; the fastest way.
        ways: the same for each way of gathering.
        capacity: bytes of each cache that the threads have, L1 and L2 each its own.
    """

    threads: int
    multiply_adds: float
    read: dict[str, float]
    gathers: float
    ways: dict[str, float]
    capacity: dict[str, int]

    def seconds(self, multiply_adds: float = 0, weight_bytes: float = 0, gathers: float = 0) -> tuple[float, str]:
        """The least time for work that needs all of this, and which of it takes that time.

        Weights are read once from the smallest level that holds them all, as it is in calls that follow one another.
        """
        level = next((name for name in LEVELS[:-1] if weight_bytes <= self.capacity[name]), "DRAM")
        times = {
            "multiply-adds": multiply_adds / self.multiply_adds,
            f"reading from {level}": weight_bytes / self.read[level],
            "gathered loads": gathers / self.gathers,
        }
        binding = max(times, key=lambda name: times[name])
        return times[binding], binding

    def as_json(self) -> dict[str, Any]:
        """For the file of results."""
        return asdict(self)


def cache_bytes() -> dict[str, int]:
    """Bytes of the caches that one processor sees; the usual ones where the system does not say."""
    found = dict(_USUAL_BYTES)
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = (index.joinpath(name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction" and f"L{level}" in found:
                unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1])
                found[f"L{level}"] = int(size[:-1]) * unit if unit else int(size)
        except (OSError, ValueError):
            continue
    return found


def instruction_sets() -> list[str]:
    """The compiler's options for this processor: what the kernels of its class may use, and no more."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return []
    return ["-mavx2", "-mfma"] if {"avx2", "fma"} <= flags else []


def program() -> Path:
    """The compiled program, compiled now if its source or the options are new.

    Raises:
        NoLimitsError: there is no compiler, or it does not compile.
    """
    source = HERE / "limits.cpp"
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    if compiler is None:
        raise NoLimitsError("there is no C++ compiler here")
    options = ["-std=gnu++20", "-O3", *instruction_sets(), "-fno-tree-vectorize", "-fno-tree-slp-vectorize", "-pthread"]
    key = hashlib.sha256(source.read_bytes() + " ".join([compiler, *options]).encode()).hexdigest()[:16]
    binary = BUILD / f"limits-{key}"
    if not binary.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        partial = BUILD / f"limits-{key}.{os.getpid()}"
        done = subprocess.run(
            [compiler, *options, str(source), "-o", str(partial)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["?"]
            raise NoLimitsError(f"{compiler} does not compile limits.cpp: {said[0]}")
        partial.replace(binary)
    return binary


@functools.cache
def measure(threads: int = 1, quick: bool = False) -> Limits:
    """Measure with that many threads at once, in about a second; a process measures once.

    Raises:
        NoLimitsError: it cannot be measured here.
    """
    caches = cache_bytes()
    # Well inside of each level and well outside of the one before; the last two are shared by the threads.
    sizes = [
        caches["L1"] * 3 // 4,
        max(caches["L2"] // 2, 2 * caches["L1"]),
        max(caches["L3"] // (4 * threads), 2 * caches["L2"]),
        max(4 * caches["L3"] // threads, 32 << 20),
    ]
    command = [program(), str(threads), "1" if quick else "2", *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise NoLimitsError(f"the program ended with {done.returncode}: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    ways = found["gathers"]
    capacity = {"L1": threads * caches["L1"], "L2": threads * caches["L2"], "L3": caches["L3"]}
    return Limits(threads, found["multiply_adds"], found["read"], max(ways.values()), ways, capacity)


def try_measure(threads: int, quick: bool = False) -> Limits | None:
    """As `measure`; None where it cannot be done, which is said."""
    try:
        return measure(threads, quick)
    except (NoLimitsError, OSError, subprocess.SubprocessError) as problem:
        print(f"The machine's limits are not known: {problem}.")
        return None
