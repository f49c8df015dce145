"""Inputs that are not finite, and inputs that say nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isogrid.quality.collecting import Samples
from isogrid.quality.finding import Finding

_SHOWN = 10


def check_finite(splits: Mapping[str, Samples]) -> Finding:
    """NaN and infinity.  One of them makes a whole layer's gradient worthless."""
    bad = {name: np.flatnonzero(~samples.finite) for name, samples in splits.items()}
    numbers = {f"{name} samples": float(len(found)) for name, found in bad.items()}
    if not any(numbers.values()):
        return Finding("finite", "good", "All inputs are finite numbers.", numbers)
    counts = ", ".join(f"{len(found)} of {name}" for name, found in bad.items() if len(found))
    return Finding(
        "finite", "problem", f"Inputs that are NaN or infinite: {counts}.", numbers,
        {name: found[:_SHOWN].tolist() for name, found in bad.items() if len(found)},
    )  # fmt: skip


def check_constant(splits: Mapping[str, Samples]) -> Finding:
    """Samples that are one number throughout, and features that never change in the training data.

    A weight of such a feature is a second bias: it can be pruned, and its gradient says nothing of the data.
    """
    train = splits["train"].features
    still = int((train.max(axis=0) == train.min(axis=0)).sum())
    flat = {name: np.flatnonzero(samples.constant) for name, samples in splits.items() if samples.features.shape[1] > 1}
    numbers = {"features": float(train.shape[1]), "constant features": float(still)}
    numbers.update({f"constant {name} samples": float(len(found)) for name, found in flat.items()})
    parts = []
    if still:
        parts.append(f"{still} of {train.shape[1]} features never change")
    parts += [f"{len(found)} {name} samples are one number throughout" for name, found in flat.items() if len(found)]
    if not parts:
        return Finding("constant", "good", "No feature and no sample is constant.", numbers)
    return Finding(
        "constant", "note", f"{'; '.join(parts)}.", numbers,
        {name: found[:_SHOWN].tolist() for name, found in flat.items() if len(found)},
    )  # fmt: skip
