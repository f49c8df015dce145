"""A layer in the report: its zeros, dead units, and weights before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.report.data import Histogram, LayerRow

_BARS = 40


def layer_row(name: str, shape: Sequence[int], was: NDArray[Any], now: NDArray[Any]) -> LayerRow:
    """The row of a layer from its dense and its sparse weights, in canonical view (axis 0 = output).

    >>> layer_row("w", (2, 2), np.ones((2, 2)), np.array([[0.0, 0.0], [1.0, 0.0]])).dead_units
    1
    """
    nonzeros = int(np.count_nonzero(now))
    alive: NDArray[np.bool_] = np.any(now.reshape(len(now), -1), axis=1)
    edges = _edges(was, now)
    return LayerRow(
        name=name, shape=tuple(shape), parameters=now.size, nonzeros=nonzeros, sparsity=1 - nonzeros / now.size,
        dead_units=int((~alive).sum()), units=len(now), dense_histogram=_histogram(was, edges),
        sparse_histogram=_histogram(now, edges),
    )  # fmt: skip


def _edges(*arrays: NDArray[Any]) -> list[float]:
    most = max((float(np.abs(array).max()) for array in arrays if array.size), default=0.0) or 1.0
    return [float(edge) for edge in np.linspace(-most, most, _BARS + 1)]


def _histogram(weights: NDArray[Any], edges: Sequence[float]) -> Histogram:
    values = weights[weights != 0].astype(np.float64)
    counts, _ = np.histogram(values, bins=np.asarray(edges))
    return Histogram(edges=edges, counts=[int(count) for count in counts])
