"""One update of a layer's topology: the weakest connections are dropped, and as many are grown elsewhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.patterns import FanIn, Pattern


def drop_and_grow(
    mask: NDArray[np.bool_], worth: NDArray[Any], promise: NDArray[Any], fraction: float, pattern: Pattern
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which active weights to drop and which inactive ones to grow, in whole groups of `pattern`.

    The groups of least worth in the whole layer are dropped, ``floor(fraction * active groups)`` of them, and every
    partition grows as many as it lost: the most promising of those that were inactive before, so that what is dropped
    does not come straight back.  Where fewer groups of a partition are inactive than could be dropped, only so many
    are.  Of equal groups the one with the lower index goes first.

    Args:
        mask: which weights are active, in canonical view; it must conform to `pattern`.
        worth: how much each active weight is worth keeping, such as its magnitude; of the shape of `mask`.
        promise: how much each inactive weight promises, such as the size of its gradient; of the shape of `mask`.
        fraction: of the active groups, from 0 to 1.
        pattern: the shape in which zeros come.

    Returns:
        What is dropped and what is grown, bool arrays of the shape of `mask`.

    Raises:
        PatternError: the pattern does not fit, or a number is not finite.

    >>> from isogrid.patterns import Unstructured
    >>> active = np.array([[True, True, True, False, False, False]])
    >>> magnitude, gradient = np.array([[3.0, 1.0, 2.0, 0, 0, 0]]), np.array([[0, 0, 0, 0.1, 0.3, 0.2]])
    >>> dropped, grown = drop_and_grow(active, magnitude, gradient, 0.4, Unstructured())
    >>> dropped.nonzero()[1], grown.nonzero()[1]
    (array([1]), array([4]))
    """
    groups = np.asarray(pattern.fold(mask).all(axis=2))
    active = groups.sum(axis=1)
    spare = np.minimum(active, groups.shape[1] - active)
    # A product like 0.3 * 10 may fall short of its whole number by a rounding.
    count = min(math.floor(fraction * int(active.sum()) + 1e-9), int(spare.sum()))
    weakest = -pattern.pool(worth)
    candidates = _highest(weakest, groups, spare)
    dropped = _highest(weakest.reshape(1, -1), candidates.reshape(1, -1), np.array([count])).reshape(groups.shape)
    grown = _highest(pattern.pool(promise), ~groups, dropped.sum(axis=1))
    return pattern.spread(dropped, mask.shape), pattern.spread(grown, mask.shape)


def _highest(
    values: NDArray[np.floating], allowed: NDArray[np.bool_], counts: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """True at the ``counts[row]`` highest allowed values of each row, of which there are enough."""
    if np.array_equal(counts, allowed.sum(axis=1)):
        return allowed
    lowest = float(values.min())
    ranked = np.where(allowed, values, lowest - 1 - abs(lowest))
    if (counts == counts[0]).all():
        return FanIn().mask(ranked, int(counts.sum()))  # in linear time
    chosen = np.zeros(values.shape, dtype=np.bool_)
    order = np.argsort(-ranked, axis=1, kind="stable")
    np.put_along_axis(chosen, order, np.arange(values.shape[1]) < counts[:, None], axis=1)
    return chosen
