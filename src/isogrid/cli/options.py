"""What several verbs take: lists of numbers, methods, shapes of inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from isogrid.errors import UsageError

if TYPE_CHECKING:
    from isogrid.sparsify import Method


def numbers(option: str, text: str) -> list[float]:
    """The numbers of a list with commas.

    >>> numbers("--at", "0.5,0.9")
    [0.5, 0.9]
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} got {text!r}; accepted are numbers with commas between them, such as 0.5,0.9."
        ) from None


def method_of(text: str, options: Sequence[str]) -> Method:
    """The method of that name with the options of ``--option NAME=VALUE``; its sparsity is 0.5 where none is given.

    Values are read as JSON where they are JSON, else as text.
    """
    from isogrid.sparsify import parse_climbing

    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"--option got {option!r}; accepted is NAME=VALUE, such as pattern=2:4.")
        try:
            given[key.strip()] = json.loads(value)
        except ValueError:
            given[key.strip()] = value
    return parse_climbing(text, **given)


def shapes(given: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """The shapes of ``--shape NAME=1x3x224x224``, by name.

    >>> shapes(["x=1x3"])
    {'x': (1, 3)}
    """
    return dict(map(_shape, given or []))


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    try:
        shape = tuple(int(part) for part in sizes.split("x"))
    except ValueError:
        shape = ()
    if not equals or not name or not shape or min(shape) < 1:
        raise UsageError(f"--shape got {text!r}; accepted is NAME=1x3x224x224, with sizes from 1 on.")
    return name, shape
