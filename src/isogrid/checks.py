"""Options that many methods have, and what is accepted for them."""

from __future__ import annotations

import math
from typing import TypeGuard

from isogrid.errors import UsageError


def is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a finite number of Python's own, as a file of options can hold; True and False are none.

    >>> is_number(1), is_number(0.5), is_number(True), is_number("1"), is_number(math.inf)
    (True, True, False, False, False)
    """
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


def check_sparsity(owner: str, sparsity: object) -> None:
    """Raise ``UsageError`` unless ``sparsity`` is a number from 0 up to, but not including, 1."""
    if not (is_number(sparsity) and 0 <= sparsity < 1):
        raise UsageError(f"{owner} got sparsity={sparsity!r}; accepted is a number from 0 up to, not including, 1.")


def check_whole(owner: str, name: str, value: object, least: int = 1) -> None:
    """Raise ``UsageError`` unless ``value`` is a whole number of ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{owner} got {name}={value!r}; accepted is a whole number >= {least}.")


def check_fraction(owner: str, name: str, value: float) -> None:
    """Raise ``UsageError`` unless ``value`` lies between 0 and 1."""
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise UsageError(f"{owner} got {name}={value!r}; accepted is a number from 0 to 1.")
