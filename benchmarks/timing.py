"""Fair timing of several candidates on a noisy machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

PAUSE = 0.03
"""Seconds between candidates: the threads of one library spin for a while after its last call, and would take a core
from the next library's."""


@dataclass(frozen=True)
class Timed:
    """Seconds of a call: the median of all rounds, and their quartiles."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{1000 * self.median:.3f} ms ({1000 * self.low:.3f} to {1000 * self.high:.3f})"


def interleaved(candidates: dict[str, Callable[[], Any]], rounds: int = 9, calls: int = 4) -> dict[str, Timed]:
    """Time candidates in turn: in each round every one is called a few times, of which the median counts.

    The first call of a round is not counted: it meets cold caches and sleeping threads, whoever came before.
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    with torch.no_grad():
        for _ in range(rounds):
            for name, call in candidates.items():
                time.sleep(PAUSE)
                seconds = []
                for _ in range(calls + 1):
                    begun = time.perf_counter()
                    call()
                    seconds.append(time.perf_counter() - begun)
                taken[name].append(statistics.median(seconds[1:]))
    found = {}
    for name, times in taken.items():
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
        found[name] = Timed(middle, low, high, tuple(times))
    return found


def ratio(one: Timed, other: Timed) -> tuple[float, float, float]:
    """How many times faster `other` is than `one`: the median of the rounds' ratios and their quartiles."""
    ratios = [a / b for a, b in zip(one.rounds, other.rounds, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return middle, low, high


def compare(wanted: torch.Tensor, got: torch.Tensor, what: str, tolerance: float = 2e-3) -> None:
    """Refuse to time what computes something else."""
    worst = float((wanted - got).abs().max() / wanted.abs().max())
    if not worst <= tolerance:
        raise SystemExit(f"{what} differs by {worst:.1e} of the largest output; nothing was timed.")
