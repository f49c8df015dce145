"""Samples that are there twice: within the training data, across splits, and with labels that contradict."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from isogrid.quality.collecting import Samples
from isogrid.quality.finding import Finding

_SHOWN = 10
_SERIOUS = 0.01
"""Share of a split that another split holds too from which on its metric flatters."""
_NEAR = 0.1
"""Of the median distance between nearest neighbours."""


def check_duplicates(splits: Mapping[str, Samples]) -> Finding:
    """Samples of one split whose inputs are bit for bit in another, and repeats within the training data."""
    numbers: dict[str, float] = {}
    examples: dict[str, list[int]] = {}
    parts, worst = [], 0.0
    train = splits["train"].digests
    repeated = len(train) - len(np.unique(train))
    numbers["repeats in train"] = float(repeated)
    if repeated:
        parts.append(f"{repeated} repeats within train")
    for first, second in combinations(splits, 2):
        shared = np.isin(splits[second].digests, splits[first].digests)
        found = np.flatnonzero(shared)
        numbers[f"{second} samples in {first}"] = float(len(found))
        if len(found):
            worst = max(worst, len(found) / len(shared))
            examples.setdefault(second, found[:_SHOWN].tolist())
            parts.append(f"{len(found)} of {len(shared)} {second} samples are in {first} too")
    if not parts:
        return Finding("duplicates", "good", "No sample is there twice.", numbers)
    return Finding("duplicates", "problem" if worst > _SERIOUS else "note", f"{'; '.join(parts)}.", numbers, examples)


def check_contradictions(splits: Mapping[str, Samples]) -> Finding | None:
    """Equal inputs with different labels: nothing can tell them apart, so they bound what is reachable."""
    train = splits["train"]
    if train.labels is None:
        return None
    _, groups = np.unique(train.digests, return_inverse=True)
    pairs = np.unique(np.stack([groups, train.labels]), axis=1)
    groups_with, counts = np.unique(pairs[0], return_counts=True)
    torn = groups_with[counts > 1]
    found = np.flatnonzero(np.isin(groups, torn))
    numbers = {"samples": float(len(found)), "share": len(found) / len(train)}
    if not len(found):
        return Finding("contradictions", "good", "Equal inputs have equal labels.", numbers)
    return Finding(
        "contradictions", "note", f"{len(found)} training samples have a twin with another label.", numbers,
        {"train": found[:_SHOWN].tolist()},
    )  # fmt: skip


def check_near_duplicates(splits: Mapping[str, Samples], points: Mapping[str, NDArray[np.float32]]) -> Finding | None:
    """Test samples that are all but in the training data.

    Near is what is closer than a tenth of the median distance from a training sample to its nearest neighbour, in the
    space of the features' main components.

    Args:
        splits: for the exact twins, which do not count here.
        points: of each split, ``[n, components]``; a part of the training data may do.
    """
    from sklearn.neighbors import NearestNeighbors

    if "test" not in points or len(points["train"]) < 3:
        return None
    neighbours = NearestNeighbors(n_neighbors=2).fit(points["train"])
    usual = float(np.median(neighbours.kneighbors(points["train"])[0][:, 1]))
    nearest = neighbours.kneighbors(points["test"], n_neighbors=1)[0][:, 0]
    exact = np.isin(splits["test"].digests, splits["train"].digests)
    found = np.flatnonzero((nearest < _NEAR * usual) & ~exact)
    share = len(found) / len(nearest)
    numbers = {"samples": float(len(found)), "share": share, "usual distance": usual}
    if not len(found):
        return Finding("near duplicates", "good", "No test sample is close to a twin in the training data.", numbers)
    return Finding(
        "near duplicates", "problem" if share > _SERIOUS else "note",
        f"{len(found)} of {len(nearest)} test samples are almost a training sample.", numbers,
        {"test": found[:_SHOWN].tolist()},
    )  # fmt: skip
