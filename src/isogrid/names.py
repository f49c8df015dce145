"""Things called by name: one way to say that a name is not known."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, TypeVar

from isogrid.errors import UsageError

_Class = TypeVar("_Class", bound=type)


def canonical(text: str) -> str:
    """The spelling under which a name is looked up: no outer space, lower case, underscores for hyphens.

    >>> canonical(" Fan-In ")
    'fan_in'
    """
    return text.strip().lower().replace("-", "_")


def unknown_name(kind: str, text: str, accepted: Iterable[str]) -> UsageError:
    """The error for a `text` that names no `kind`: it lists what is accepted and suggests the nearest name.

    The error is returned, not raised, so that the caller's `raise` shows where it happened.

    >>> print(unknown_name("schedule", "qubic", ["linear", "cubic"]))
    Unknown schedule 'qubic' (did you mean 'cubic'?): accepted are linear, cubic.
    """
    choices = list(accepted)
    near = difflib.get_close_matches(canonical(text), choices, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UsageError(f"Unknown {kind} {text!r}{hint}: accepted are {', '.join(choices)}.")


def dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names, so that a difference is named where it is.

    >>> dotted({"seed": 0, "recipe": {"lr": 0.1}})
    {'seed': 0, 'recipe.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat.update(dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def register(kind: str, table: MutableMapping[str, Any], name: str) -> Callable[[_Class], _Class]:
    """A class decorator that puts a class into `table`, where texts of that `kind` are looked up.

    Raises:
        UsageError: the name is not in the spelling under which it is looked up, or another class has it.

    >>> table = {}
    >>> @register("colour", table, "red")
    ... class Red: pass
    >>> table["red"] is Red
    True
    """
    if not name or name != canonical(name):
        raise UsageError(f"The {kind} name {name!r} cannot be looked up; accepted is {canonical(name) or 'a word'!r}.")

    def put(cls: _Class) -> _Class:
        taken = table.get(name)
        if taken is not None and taken.__qualname__ != cls.__qualname__:
            raise UsageError(f"The {kind} name {name!r} is taken by {taken.__qualname__}; choose another.")
        table[name] = cls
        return cls

    return put
