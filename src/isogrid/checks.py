"""Options that many methods have, and what is accepted for them."""

from __future__ import annotations

import math

from isogrid.errors import UsageError


def check_sparsity(owner: str, sparsity: object) -> None:
    """Raise ``UsageError`` unless ``sparsity`` is a number from 0 up to, but not including, 1."""
    numeric = isinstance(sparsity, float | int) and not isinstance(sparsity, bool)
    if not numeric or not (math.isfinite(sparsity) and 0 <= sparsity < 1):  # type: ignore[operator,arg-type]
        raise UsageError(f"{owner} got sparsity={sparsity!r}; accepted is a number from 0 up to, not including, 1.")


def check_whole(owner: str, name: str, value: object, least: int = 1) -> None:
    """Raise ``UsageError`` unless ``value`` is a whole number of ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{owner} got {name}={value!r}; accepted is a whole number >= {least}.")


def check_fraction(owner: str, name: str, value: float) -> None:
    """Raise ``UsageError`` unless ``value`` lies between 0 and 1."""
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise UsageError(f"{owner} got {name}={value!r}; accepted is a number from 0 to 1.")
