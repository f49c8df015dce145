"""How well the calibration samples stand for the data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isogrid.quality.finding import Finding

_NEIGHBOURS = 5
_SHORT = 0.8
"""Share of what a random draw covers below which the calibration samples are a poor choice."""


def check_coverage(
    validation: NDArray[np.float32], calibration: NDArray[np.float32], drawn: NDArray[np.float32]
) -> Finding | None:
    """Whether the samples that one-shot methods calibrate on cover the validation split.

    Coverage (Naeem et al. 2020, arXiv:2002.09797, eq. 6): the share of validation samples in whose ball, up to their
    fifth neighbour of the same split, lies a calibration sample.  It depends on how many these are, so the same number
    of training samples, drawn at random, stands beside it.

    Args:
        validation, calibration, drawn: ``[n, components]`` each, the last two of one length.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(validation) <= _NEIGHBOURS or not len(calibration):
        return None
    radius = NearestNeighbors(n_neighbors=_NEIGHBOURS + 1).fit(validation).kneighbors(validation)[0][:, -1]

    def covered(samples: NDArray[np.float32]) -> float:
        nearest = NearestNeighbors(n_neighbors=1).fit(samples).kneighbors(validation)[0][:, 0]
        return float((nearest <= radius).mean())

    ours, random = covered(calibration), covered(drawn)
    numbers = {"samples": float(len(calibration)), "coverage": ours, "coverage of a random draw": random}
    text = (
        f"{len(calibration)} calibration samples cover {100 * ours:.0f} % of the validation split, as many random ones "
        f"{100 * random:.0f} %"
    )
    if ours < _SHORT * random:
        return Finding("calibration", "problem", f"{text}: the first batches are not typical of the data.", numbers)
    return Finding("calibration", "good", f"{text}.", numbers)
