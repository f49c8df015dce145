"""How ``targets=`` and ``ignore=`` name parameters: by name, by the name of a layer above, or by regular expression."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from isogrid.errors import TargetError, UsageError


def check_entries(option: str, entries: str | Sequence[str] | None) -> list[str] | None:
    """The entries of an option as a list; None where there are none.

    Raises:
        UsageError: one is no text, or no regular expression.
    """
    if entries is None:
        return None
    listed = [entries] if isinstance(entries, str) else list(entries)
    for entry in listed:
        if not isinstance(entry, str):
            raise UsageError(f"{option} holds names or regular expressions, not {entry!r}.")
        try:
            re.compile(entry)
        except re.error as problem:
            raise UsageError(f"{option} entry {entry!r} is no regular expression ({problem}).") from None
    return listed


def matches(entry: str, name: str, separator: str = ".") -> bool:
    r"""Whether an entry names that parameter, a layer above it, or matches the whole name.

    >>> matches("encoder.0", "encoder.0.weight"), matches(r".*\.bias", "encoder.0.weight")
    (True, False)
    """
    return entry == name or name.startswith(entry + separator) or re.fullmatch(entry, name) is not None


def nothing_matches(option: str, entry: str, names: list[str]) -> TargetError:
    """The error for an entry that names no parameter; returned, not raised, so that `raise` shows where."""
    near = difflib.get_close_matches(entry, names, n=3, cutoff=0.3) or names[:3]
    return TargetError(
        f"{option} entry {entry!r} matches no weight of two axes or more (biases and norms are never pruned); "
        f"names here are for example {', '.join(near) if near else 'none'}."
    )
