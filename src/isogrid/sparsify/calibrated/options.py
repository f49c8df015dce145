"""Checks of options that several calibrated methods have."""

from __future__ import annotations

import math

from isogrid.errors import UsageError


def check_damping(owner: str, damping: object) -> None:
    """Refuse a damping that is no number above 0.

    Raises:
        UsageError: it is none.
    """
    numeric = isinstance(damping, float | int) and not isinstance(damping, bool)
    if not numeric or not (math.isfinite(damping) and damping > 0):  # type: ignore[operator,arg-type]
        raise UsageError(f"{owner} got damping={damping!r}; accepted is a number above 0, a fraction of the diagonal.")
