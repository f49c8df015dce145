"""Members such as a user may write, in combinations that the library's own do not have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from isogrid.errors import PatternError
from isogrid.patterns import Grid, Pattern
from isogrid.schedules import Ramp


@dataclass(frozen=True)
class HalvesOfRows(Pattern):
    """Whole rows, equally many in the upper and the lower half: several partitions of groups of several weights."""

    def grid(self, shape: Sequence[int]) -> Grid:
        if len(shape) < 2 or shape[0] % 2:
            raise PatternError(f"Pattern {self} does not fit shape {tuple(shape)}: it needs an even number of rows.")
        return Grid(2, shape[0] // 2, math.prod(shape[1:]))

    def fold(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.reshape(2, array.shape[0] // 2, math.prod(array.shape[1:]))

    def unfold(self, cells: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        return cells.reshape(tuple(shape))

    def __str__(self) -> str:
        return "halves_of_rows"


@dataclass(frozen=True)
class Sine(Ramp):
    """A quarter of a sine wave, slow at the end only."""

    name: ClassVar[str] = "sine"

    def curve(self, t: float) -> float:
        return math.sin(math.pi / 2 * t)
