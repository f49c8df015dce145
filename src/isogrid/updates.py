"""When masks are updated: every so many steps while a schedule moves, and once where it closes."""

from __future__ import annotations

import math

from isogrid.errors import UsageError
from isogrid.schedules import Schedule


def check_interval(owner: str, delta_t: int | None) -> None:
    """Refuse anything but a whole number of steps from 1 on, or None.

    Raises:
        UsageError: it is something else.
    """
    if delta_t is not None and (isinstance(delta_t, bool) or not isinstance(delta_t, int) or delta_t < 1):
        raise UsageError(f"{owner} got delta_t={delta_t!r}; accepted is a whole number of steps >= 1, or None.")


def update_interval(delta_t: int | None, total_steps: int) -> int:
    """Steps between two updates of the masks: as given, or a hundredth of the training."""
    return max(1, total_steps // 100) if delta_t is None else delta_t


def closing_step(total_steps: int, schedule: Schedule) -> int:
    """The first step at or behind the ramp's end; of a ramp that has no length the first of all.

    >>> from isogrid.schedules import Constant, Cubic
    >>> closing_step(100, Cubic(end=0.75)), closing_step(100, Constant())
    (75, 1)
    """
    return min(total_steps, max(1, math.ceil(schedule.end * total_steps)))


def update_due(step: int, total_steps: int, delta_t: int | None, schedule: Schedule) -> bool:
    """Whether the masks are updated after that step: at the interval while the ramp rises, and where it closes.

    The first step at or behind the ramp's end always counts, so that the final sparsity is reached exactly, whatever
    the interval.
    """
    closing = closing_step(total_steps, schedule)
    if step == closing:
        return True
    return step < closing and step % update_interval(delta_t, total_steps) == 0
