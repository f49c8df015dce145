"""How often each class is there, and whether the splits agree on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from isogrid.quality.collecting import Samples
from isogrid.quality.finding import Finding

_UNEVEN, _APART = 10.0, 0.1


def check_balance(splits: Mapping[str, Samples], names: Sequence[str] | None) -> Finding | None:
    """Classes that are rare, missing, or spread differently over the splits.

    The distance between two splits is the total variation of their class shares: 0 where they agree, 1 where they have
    no class in common.
    """
    labels = {name: samples.labels for name, samples in splits.items() if samples.labels is not None}
    if "train" not in labels:
        return None
    known = np.unique(np.concatenate(list(labels.values())))
    classes = len(known)
    counts = {name: np.bincount(np.searchsorted(known, part), minlength=classes) for name, part in labels.items()}
    there = counts["train"][counts["train"] > 0]
    ratio = float(there.max() / there.min())
    numbers = {"classes": float(classes), "largest over smallest class": ratio}
    parts, grade = [], "good"
    for name, count in counts.items():
        unseen = np.flatnonzero((count > 0) & (counts["train"] == 0))
        if len(unseen):
            grade = "problem"
            parts.append(f"{name} has classes that train has not: {_named(known[unseen], names)}")
        apart = _apart(count, counts["train"])
        numbers[f"{name} from train"] = apart
        if apart > _APART:
            grade = "problem" if grade == "problem" else "note"
            parts.append(f"{100 * apart:.0f} % of {name} would have to change class to have the shares of train")
    if ratio > _UNEVEN:
        grade = "problem" if grade == "problem" else "note"
        rarest = np.flatnonzero(counts["train"] == there.min())[:1]
        parts.append(
            f"the largest class is {ratio:.0f} times the smallest, {_named(known[rarest], names)}: accuracy says "
            "little of it, and pruning tends to give up rare classes first"
        )
    text = "; ".join(parts) if parts else f"{classes} classes, the largest {ratio:.1f} times the smallest"
    return Finding("balance", grade, f"{text}.", numbers)  # type: ignore[arg-type]


def _apart(count: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    return float(np.abs(count / count.sum() - other / other.sum()).sum() / 2)


def _named(classes: NDArray[np.int64], names: Sequence[str] | None) -> str:
    return ", ".join(
        names[index] if names is not None and 0 <= index < len(names) else str(index) for index in classes[:10]
    )
