"""Fair timing of several candidates on a machine that is not quiet.

Candidates take turns, so that whatever slows the machine slows all of them; what is reported is the median of the turns
and, for two candidates, the median of the ratios within a round.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Call = Callable[[], Any]
Key = TypeVar("Key")

TURN_SECONDS = 0.004
"""A turn has as many calls as fit in here, at least one; their median is the turn's time."""
MOST_CALLS = 100
LONG_CALL = 0.1
"""A call of this many seconds needs no call before it that is not counted."""
SWEEP_BYTES = 96 << 20
"""Three times the largest cache that is common: what was in a cache before is not after a sweep."""


@dataclass(frozen=True)
class Candidate:
    """What takes part in a race: a call without arguments, and the threads that it may use."""

    call: Call
    threads: int = 1


@dataclass(frozen=True)
class Sample:
    """Seconds of a call: the median of each round, and every call that was timed.

    >>> Sample((5.0, 1.0, 3.0)).median
    3.0
    """

    rounds: tuple[float, ...]
    calls: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.rounds)

    def percentile(self, percent: float) -> float:
        """Of all calls, the one that this share of them does not exceed.

        >>> Sample((2.0,), (1.0, 2.0, 3.0)).percentile(50)
        2.0
        """
        return float(np.percentile(self.calls or self.rounds, percent))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Below and above it a quarter of the rounds lies."""
        return quartiles(self.rounds)


@dataclass(frozen=True)
class Ratio:
    """How many times faster one is than the other: the median of the rounds' ratios and its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.low:.2f} to {self.high:.2f})"


def quartiles(numbers: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper one; of a single number, itself.

    >>> quartiles([1.0, 2.0, 3.0])
    (1.5, 2.5)
    """
    if len(numbers) == 1:
        return numbers[0], numbers[0]
    low, _, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return low, high


def median_interval(numbers: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the median that supposes nothing about how the numbers are distributed.

    It goes from the k-th smallest to the k-th largest: the median lies outside only if fewer than k numbers fall on one
    side of it, and sides are drawn like coins.  Of five numbers even the smallest and the largest do not reach 95 %;
    they are given then.

    >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    (2.0, 8.0)
    """
    ordered = sorted(numbers)
    n = len(ordered)
    left_out = 0  # on each side, k - 1
    tail = 1 / 2**n
    while left_out + 1 <= (n - 1) // 2:
        tail += math.comb(n, left_out + 1) / 2**n
        if 2 * tail > 1 - confidence:
            break
        left_out += 1
    return ordered[left_out], ordered[n - 1 - left_out]


def ratio(slow: Sample, fast: Sample) -> Ratio:
    """How many times faster `fast` is, from two samples of one race.

    >>> ratio(Sample((2.0, 20.0, 2.0)), Sample((1.0, 10.0, 1.0))).median
    2.0
    """
    ratios = [a / b for a, b in zip(slow.rounds, fast.rounds, strict=True)]
    return Ratio(statistics.median(ratios), *median_interval(ratios))


def settle(most: float = 0.15) -> None:
    """Wait until the other threads of this process sleep.

    OpenMP's threads and ONNX Runtime's spin for milliseconds after their last call, on the core that the next library
    needs.
    """
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        worked, begun = time.process_time(), time.perf_counter()
        time.sleep(0.001)
        if time.process_time() - worked < 0.2 * (time.perf_counter() - begun):
            return


class Sweep:
    """Pushes out what the caches hold, by writing to a buffer that is larger than they are."""

    def __init__(self, size: int = SWEEP_BYTES) -> None:
        self._buffer = np.zeros(size // 8)

    def __call__(self) -> None:
        self._buffer += 1.0


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """Garbage is collected before and not during."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _timed(call: Call) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def race(
    candidates: Mapping[Key, Candidate],
    *,
    seconds: float = 5.0,
    least_rounds: int = 5,
    most_rounds: int = 31,
    cold: bool = False,
    set_threads: Callable[[int], None] | None = None,
    seed: int = 0,
) -> dict[Key, Sample]:
    """Let the candidates take turns, in an order that changes from round to round.

    Rounds are run until the seconds are over, but at least and at most as many as are named.  A turn begins with a call
    that is not counted, which finds cold caches and sleeping threads whoever came before; with `cold`, it is one call
    after a sweep of the caches instead.  `set_threads` is told the threads of each candidate before its turn.

    >>> samples = race({"sleep": Candidate(lambda: time.sleep(0.001))}, seconds=0.0, least_rounds=2)
    >>> len(samples["sleep"].rounds)
    2
    """
    sweep = Sweep() if cold else None
    order = list(candidates)
    shuffle = random.Random(seed).shuffle  # noqa: S311 - only an order
    taken: dict[Key, list[float]] = {key: [] for key in candidates}
    every: dict[Key, list[float]] = {key: [] for key in candidates}
    calls: dict[Key, int] = {}

    def turn(key: Key) -> float:
        candidate = candidates[key]
        if set_threads is not None:
            set_threads(candidate.threads)
        settle()
        if sweep is not None:
            sweep()
            every[key].append(_timed(candidate.call))
            return every[key][-1]
        count = calls.get(key)
        if count is None:  # the first turn finds out how long a call takes; its first call may still set things up
            candidate.call()
            once = _timed(candidate.call)
            count = calls[key] = (
                max(1, min(MOST_CALLS, round(TURN_SECONDS / max(once, 1e-9)))) if once < LONG_CALL else 0
            )
        elif count:
            candidate.call()
        times = [_timed(candidate.call) for _ in range(max(count, 1))]
        every[key] += times
        return statistics.median(times)

    with no_collector():
        begun = time.perf_counter()
        for done in range(most_rounds):
            if done >= least_rounds and time.perf_counter() - begun > seconds:
                break
            shuffle(order)
            for key in order:
                taken[key].append(turn(key))
    return {key: Sample(tuple(times), tuple(every[key])) for key, times in taken.items()}
