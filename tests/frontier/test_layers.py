"""The row of a layer, from arrays."""

from __future__ import annotations

import numpy as np

from isogrid.frontier.layers import layer_row


def test_zeros_dead_units_and_weights_on_one_scale() -> None:
    was = np.array([[1.0, -2.0, 0.5], [0.1, 0.2, 0.3]], np.float32)
    now = np.array([[0.0, -2.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    row = layer_row("w", (3, 2), was, now)
    assert (row.shape, row.parameters, row.nonzeros, row.dead_units, row.units) == ((3, 2), 6, 1, 1, 2)
    assert row.sparsity == 5 / 6
    assert row.dense_histogram.edges == row.sparse_histogram.edges
    assert (row.dense_histogram.edges[0], row.dense_histogram.edges[-1]) == (-2.0, 2.0)
    assert (row.dense_histogram.total, row.sparse_histogram.total) == (6, 1)
