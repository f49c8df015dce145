"""The options of `isogrid.shrink`: checked, and turned into what each group may lose."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from isogrid.errors import TargetError, UsageError
from isogrid.names import unknown_name
from isogrid.structure.choosing import Budget
from isogrid.structure.groups import Group, Kept

Names = str | Sequence[str] | None


def check_options(sparsity: Any, heads: Any, allocation: Any, minimum: Any, round_to: Any, tolerance: Any) -> None:
    """Raise UsageError for an option that is out of its range."""
    for entry, value in sparsity.items() if isinstance(sparsity, Mapping) else [("", sparsity)]:
        _check_fraction(f"sparsity for {entry!r}" if entry else "sparsity", value)
    _check_fraction("heads", heads)
    if allocation not in ("uniform", "global"):
        raise unknown_name("allocation", str(allocation), ["uniform", "global"])
    for option, value in (("minimum", minimum), ("round_to", round_to)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise UsageError(f"shrink got {option}={value!r}; accepted is a whole number >= 1.")
    if tolerance is not None and not (_is_number(tolerance) and tolerance >= 0):
        raise UsageError(f"shrink got tolerance={tolerance!r}; accepted is a number >= 0.")


def _check_fraction(option: str, value: Any) -> None:
    if value is None:
        return
    if not _is_number(value) or not 0 <= value < 1:
        raise UsageError(f"shrink got {option}={value!r}; accepted is a fraction in [0, 1).")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def budget_for(
    groups: Sequence[Group],
    sparsity: float | Mapping[str, float] | None,
    heads: float | None,
    *,
    together: bool,
    minimum: int,
    round_to: int,
) -> Budget:
    """What each group may lose.

    Raises:
        TargetError: a name in `sparsity` matches no group.
    """
    shares: dict[str, float] = {}
    if isinstance(sparsity, Mapping):
        for entry in sparsity:
            matches = _matcher("sparsity", entry)
            if not any(matches(name) for group in groups for name in _names(group)):
                known = ", ".join(group.name for group in groups[:5])
                raise TargetError(
                    f"sparsity entry {entry!r} matches no layer whose outputs may be removed; these are "
                    f"{known or 'none'}{' and others' if len(groups) > 5 else ''}."
                )
    for group in groups:
        if isinstance(sparsity, Mapping):
            own = next(
                (share for entry, share in sparsity.items() if any(map(_matcher("sparsity", entry), _names(group)))),
                None,
            )
        else:
            own = sparsity
        if heads is not None and group.kind == "heads":
            own = heads
        if own:
            shares[group.name] = own
    return Budget(shares, together, minimum, round_to)


def split_ignored(groups: Sequence[Group], ignore: Names, model: nn.Module) -> tuple[list[Group], list[Kept]]:
    """The groups that touch nothing of what is to be ignored, and the others.

    Raises:
        UsageError: something else than names.
        TargetError: an entry matches no parameter.
    """
    if not isinstance(ignore, str | Sequence | None):
        raise UsageError(f"shrink got ignore={ignore!r}; accepted are names or regular expressions, one or a list.")
    entries = [ignore] if isinstance(ignore, str) else list(ignore or [])
    matchers = [_matcher("ignore", entry) for entry in entries]
    names = [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]
    for entry, matches in zip(entries, matchers, strict=True):
        if not any(map(matches, names)):
            raise TargetError(
                f"ignore entry {entry!r} matches no parameter; names here are for example {', '.join(names[:3])}."
            )
    free, ignored = [], []
    for group in groups:
        if any(matches(name) for name, _ in group.sites for matches in matchers):
            ignored.append(Kept(group.name, len(group.units), "is to be ignored"))
        else:
            free.append(group)
    return free, ignored


def _names(group: Group) -> tuple[str, ...]:
    """What a group may be called by: its own name, its layers and its parameters."""
    layers = (name.rpartition(".")[0] for name, _ in group.sites[:1])
    return (group.name, *layers, *(name for name, axis in group.sites if axis == 0))


def _matcher(option: str, entry: Any) -> Callable[[str], bool]:
    if not isinstance(entry, str):
        raise UsageError(f"{option} holds names or regular expressions, not {entry!r}.")
    try:
        pattern = re.compile(entry)
    except re.error as problem:
        raise UsageError(f"{option} entry {entry!r} is no regular expression ({problem}).") from None
    return lambda name: entry == name or name.startswith(f"{entry}.") or pattern.fullmatch(name) is not None
