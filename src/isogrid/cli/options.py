"""What several verbs take: lists of numbers, shapes of inputs."""

from __future__ import annotations

from collections.abc import Sequence

from isogrid.errors import UsageError


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
