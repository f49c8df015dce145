"""Things called by name: one way to say that a name is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from isogrid.errors import UsageError


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
