"""Checks of options that several calibrated methods have."""

from __future__ import annotations

from isogrid.checks import is_number
from isogrid.errors import UsageError


def check_damping(owner: str, damping: object) -> None:
    """Refuse a damping that is no number above 0.

    Raises:
        UsageError: it is none.
    """
    if not (is_number(damping) and damping > 0):
        raise UsageError(f"{owner} got damping={damping!r}; accepted is a number above 0, a fraction of the diagonal.")
