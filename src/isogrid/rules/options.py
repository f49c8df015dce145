"""What an option of a method accepts, told from the annotation of its field."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

from isogrid.errors import UsageError
from isogrid.schedules import Schedule, parse_schedule
from isogrid.scores import Score, parse_score

_PLAIN: dict[str, type | tuple[type, ...]] = {
    "int": numbers.Integral, "float": numbers.Real, "bool": bool, "str": str, "None": type(None),
}  # fmt: skip
_NAMED: dict[str, tuple[type, Callable[[str], Any]]] = {
    "Schedule": (Schedule, parse_schedule), "Score": (Score, parse_score),
}  # fmt: skip


def option_value(given: str, value: Any, annotation: str, *, exact: bool = True) -> Any:
    """`value` as its field wants it: a schedule or a score also by name, a plain value of the annotated type.

    Args:
        given: what arrived, as the error says it.
        value: of the option.
        annotation: of the field; one that is neither plain nor a schedule or score admits everything.
        exact: whether the kind of number counts; else a field of numbers takes every number, for the method to judge.

    Raises:
        UsageError: it is of another type, or an unknown name.

    >>> option_value("RigL got schedule='linear'", "linear", "Schedule")
    Linear(begin=0.0, end=1.0)
    >>> option_value("RigL got window='x'", "x", "int")
    Traceback (most recent call last):
    isogrid.errors.UsageError: RigL got window='x'; accepted is int.
    """
    if annotation in _NAMED:
        kind, parse = _NAMED[annotation]
        if isinstance(value, str):
            return parse(value)
        if not isinstance(value, kind):
            raise UsageError(f"{given}; accepted is a {annotation}, or the name of one.")
    kinds = annotation.split(" | ")
    judged_elsewhere = not exact and isinstance(value, numbers.Real) and {"int", "float"} & {*kinds}
    if all(kind in _PLAIN for kind in kinds) and not judged_elsewhere and not any(_is(value, kind) for kind in kinds):
        raise UsageError(f"{given}; accepted is {' or '.join(kinds)}.")
    return value


def _is(value: Any, kind: str) -> bool:
    # bool is a subclass of int, and no number here.
    return isinstance(value, _PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))
