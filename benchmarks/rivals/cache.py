"""What is made of a model or a weight once, however many settings use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_made: dict[tuple[Any, ...], tuple[object, Any]] = {}


def made(of: object, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What `make` gives, once for each object and key, until `forget`."""
    full = (id(of), *key)
    if full not in _made:
        _made[full] = of, make()  # the object too, so that its id is nobody else's
    return _made[full][1]


def forget() -> None:
    """Let go of all that was made: a compiled model and its original hold each other."""
    _made.clear()
