"""The sparsities that the main job climbs through, rung by rung, until the floor breaks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from isogrid.errors import UsageError

LADDER = (0.5, 0.75, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.985, 0.99, 0.993, 0.995, 0.997, 0.998)
"""Where a task names no ladder of its own."""


def check_ladder(ladder: Iterable[float]) -> tuple[float, ...]:
    """The rungs as numbers.

    Raises:
        UsageError: there is none, one is not between 0 and 1, or they do not rise.

    >>> check_ladder([0.5, 0.9])
    (0.5, 0.9)
    """
    rungs = tuple(float(rung) for rung in ladder)
    if not rungs or any(not 0 < rung < 1 for rung in rungs) or any(a >= b for a, b in itertools.pairwise(rungs)):
        raise UsageError(f"The recipe got ladder={list(rungs)}; accepted are rising sparsities between 0 and 1.")
    return rungs
