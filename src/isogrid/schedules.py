"""Schedules: how a number, most often the sparsity, moves from its first to its last value over training.

Progress is the fraction of training that is done, from 0 to 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

from isogrid.errors import UsageError
from isogrid.names import canonical, unknown_name


class Schedule(ABC):
    """A way from 0 to 1 that never turns back.

    A schedule of your own that rises smoothly is a `Ramp` with a `curve`.

    Attributes:
        name: what `parse_schedule` and the command line call it.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def begin(self) -> float:
        """The progress before which nothing moves."""

    @property
    @abstractmethod
    def end(self) -> float:
        """The progress from which on nothing moves any more."""

    @abstractmethod
    def __str__(self) -> str:
        """The text that names the schedule; `parse_schedule` reads it back."""

    @abstractmethod
    def _ramp(self, progress: float) -> float:
        """`ramp`, for a progress that is known to be in [0, 1]."""

    @final
    def ramp(self, progress: float) -> float:
        """How much of the way is done: 0 before `begin`, 1 from `end` on, and never falling.

        Raises:
            UsageError: `progress` is outside [0, 1].

        >>> Linear(begin=0.5).ramp(0.25), Linear(begin=0.5).ramp(0.75)
        (0.0, 0.5)
        """
        if not 0.0 <= progress <= 1.0:
            raise UsageError(f"Progress {progress} is not accepted: it is a fraction of training from 0 to 1.")
        return self._ramp(progress)

    @final
    def value(self, progress: float, initial: float, final: float) -> float:
        """The number at `progress` on its way from `initial` to `final`, both reached exactly.

        Raises:
            UsageError: `progress` is outside [0, 1].

        >>> Cubic().value(0.5, initial=0.0, final=0.8)
        0.7000000000000001
        """
        done = self.ramp(progress)
        if done == 1.0:
            return final
        low, high = min(initial, final), max(initial, final)
        return min(max(initial + (final - initial) * done, low), high)


@dataclass(frozen=True)
class Constant(Schedule):
    """The last value from the very start.

    >>> Constant().value(0.0, initial=0.0, final=0.9)
    0.9
    """

    name: ClassVar[str] = "constant"

    @property
    def begin(self) -> float:
        return 0.0

    @property
    def end(self) -> float:
        return 0.0

    def _ramp(self, progress: float) -> float:
        return 1.0

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class OneShot(Schedule):
    """The whole way in one step, at progress `at`.

    Raises:
        UsageError: `at` is outside [0, 1].

    >>> OneShot(at=0.5).ramp(0.49), OneShot(at=0.5).ramp(0.5)
    (0.0, 1.0)
    """

    name: ClassVar[str] = "one_shot"

    at: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.at <= 1.0:
            raise UsageError(f"Schedule {self} is not accepted: it must happen at a fraction of training from 0 to 1.")

    @property
    def begin(self) -> float:
        return self.at

    @property
    def end(self) -> float:
        return self.at

    def _ramp(self, progress: float) -> float:
        return float(progress >= self.at)

    def __str__(self) -> str:
        return f"{self.name}:{self.at}" if self.at else self.name


@dataclass(frozen=True)
class Ramp(Schedule):
    """A schedule that follows `curve` from progress `begin` to progress `end`.

    Raises:
        UsageError: not ``0 <= begin <= end <= 1``.
    """

    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.begin <= self.end <= 1.0:
            raise UsageError(
                f"Schedule {self} is not accepted: it must begin and end at fractions of training with "
                "0 <= begin <= end <= 1."
            )

    @abstractmethod
    def curve(self, t: float) -> float:
        """How much of the way is done at the fraction `t` of the time from `begin` to `end`, 0 < t < 1."""

    @final
    def _ramp(self, progress: float) -> float:
        if progress >= self.end:
            return 1.0
        if progress <= self.begin:
            return 0.0
        return self.curve((progress - self.begin) / (self.end - self.begin))

    @final
    def __str__(self) -> str:
        whole = (self.begin, self.end) == (0.0, 1.0)
        return self.name if whole else f"{self.name}:{self.begin}..{self.end}"


@dataclass(frozen=True)
class Linear(Ramp):
    """The same step at all times: ``t``.

    >>> Linear().ramp(0.25)
    0.25
    """

    name: ClassVar[str] = "linear"

    def curve(self, t: float) -> float:
        return t


@dataclass(frozen=True)
class Cubic(Ramp):
    """Fast at first, while there is much that is not needed, then ever slower: ``1 - (1 - t)^3``.

    Source: Zhu and Gupta 2017, "To prune, or not to prune", arXiv:1710.01878, equation 1.

    >>> Cubic().ramp(0.5)
    0.875
    """

    name: ClassVar[str] = "cubic"

    def curve(self, t: float) -> float:
        rest = 1.0 - t
        # Products, not a power: each rounds monotonically, so the ramp never falls.
        return 1.0 - rest * rest * rest


@dataclass(frozen=True)
class Cosine(Ramp):
    """Half a cosine wave, slow at both ends: ``(1 - cos(pi t)) / 2``.

    Source: Dettmers and Zettlemoyer 2019, "Sparse networks from scratch", arXiv:1907.04840 (decay of the prune rate).

    >>> round(Cosine().ramp(0.5), 12)
    0.5
    """

    name: ClassVar[str] = "cosine"

    def curve(self, t: float) -> float:
        return (1.0 - math.cos(math.pi * t)) / 2.0


_RAMPS: dict[str, type[Ramp]] = {schedule.name: schedule for schedule in (Linear, Cubic, Cosine)}
_ACCEPTED = (Constant.name, f"{OneShot.name}[:AT]", *(f"{name}[:BEGIN..END]" for name in _RAMPS))


def parse_schedule(text: str) -> Schedule:
    """The schedule named by `text`: constant, one_shot, linear, cubic or cosine.

    A colon gives the times as fractions of training: ``one_shot:0.5``, ``cubic:0.1..0.75``.

    Raises:
        UsageError: the text names no schedule, or its times are not accepted.

    >>> parse_schedule("cubic"), parse_schedule("cubic:0.1..0.75")
    (Cubic(begin=0.0, end=1.0), Cubic(begin=0.1, end=0.75))
    """
    head, colon, times = text.partition(":")
    name = canonical(head)
    if not colon and name == Constant.name:
        return Constant()
    if name == OneShot.name:
        return OneShot(_fraction(times, text)) if colon else OneShot()
    if name in _RAMPS:
        if not colon:
            return _RAMPS[name]()
        begin, _, end = times.partition("..")
        return _RAMPS[name](_fraction(begin, text), _fraction(end, text))
    raise unknown_name("schedule", text, _ACCEPTED)


def _fraction(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"{text!r} in schedule {whole!r} is not a number: accepted are {', '.join(_ACCEPTED)}."
        ) from None
