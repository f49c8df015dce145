"""Whether runs from other seeds keep the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import UsageError
from isogrid.explain.ranks import rank_correlation


@dataclass(frozen=True)
class StabilityRow:
    """One layer in all runs.

    Attributes:
        layer: its name.
        overlap: of the weights that one of two runs keeps, the share that both keep (Jaccard), mean over pairs of runs.
        chance: what masks drawn at random at these densities would share.
        inputs: rank correlation of how many weights each input keeps, mean over pairs; None where it is not defined.
            Seeds shuffle hidden units, so that their weights overlap by chance; the inputs of the model stay what they
            are, and runs that agree on them learn alike.
    """

    layer: str
    overlap: float
    chance: float
    inputs: float | None


def stability(runs: Sequence[dict[str, NDArray[np.bool_]]]) -> list[StabilityRow]:
    """A row a layer, of the active weights of two runs or more in canonical view.

    Raises:
        UsageError: the runs have other layers, or layers of other shapes.

    >>> runs = [{"w": np.array([[True, False], [True, True]])}, {"w": np.array([[True, False], [False, True]])}]
    >>> row = stability(runs)[0]
    >>> round(row.overlap, 3), round(row.chance, 3)
    (0.667, 0.429)
    """
    first = {name: mask.shape for name, mask in runs[0].items()}
    for other in runs[1:]:
        if {name: mask.shape for name, mask in other.items()} != first:
            raise UsageError("The runs have different layers; accepted are runs of one model.")
    rows = []
    for name in first:
        overlaps, chances, inputs = [], [], []
        for one, two in combinations([run[name] for run in runs], 2):
            either = int((one | two).sum())
            p, q = one.mean(), two.mean()
            overlaps.append(int((one & two).sum()) / either if either else 1.0)
            chances.append(float(p * q / (p + q - p * q)) if p + q else 1.0)
            axes = tuple(axis for axis in range(one.ndim) if axis != 1)
            inputs.append(rank_correlation(one.sum(axis=axes), two.sum(axis=axes)) if one.ndim > 1 else None)
        known = [value for value in inputs if value is not None]
        rows.append(
            StabilityRow(
                name, float(np.mean(overlaps)), float(np.mean(chances)), float(np.mean(known)) if known else None
            )
        )
    return rows
