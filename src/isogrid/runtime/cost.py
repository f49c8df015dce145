"""Which layers pay: a cost model without a clock, so that the same model gives the same choices everywhere.

The constants are rates of the kind of machine this was measured on (benchmarks/layers): what matters is their ratios,
and these differ little between processors of the last ten years.
"""

from __future__ import annotations

from dataclasses import dataclass

_DENSE_MAC = 0.024
"""Nanoseconds of a core for a dense multiply-add in a large product."""
_DENSE_BYTE = 0.05
"""The same for a byte of dense weights that a single token needs once."""
_SPARSE_MAC = 0.036
"""For a multiply-add of a nonzero with one of many columns."""
_SPARSE_ROW = 0.0015
"""For each row, column and block of 128 channels: fetching and storing sums."""
_SPARSE_FAR = 0.014
"""On top of `_SPARSE_MAC` where blocks are larger than the L1 cache, as they are for rows with few nonzeros."""
_SPARSE_WHOLE = 0.2
"""For each row and column of a product that is hardly cut into blocks."""
_SPARSE_STORE = 0.12
"""For each result on its way out."""
_SPARSE_PACK = 0.06
"""For each activation on its way in."""
_SPARSE_DOT = 0.25
"""For a nonzero that meets a single column."""
_SPARSE_READ = 0.2
"""For a nonzero that meets a few columns, which are computed as 2, 4 or 8; its multiply-adds come on top."""
_MOST_FEW = 8
_CALL = 2000.0
"""For any layer at all."""
MARGIN = 1.15
"""A sparse layer is chosen if it promises to be this many times faster."""


@dataclass(frozen=True)
class Work:
    """What one layer does in one call.

    Attributes:
        rows, columns: of the weights (of all groups together: rows times inputs of each).
        nonzeros: of the weights.
        positions: how often the weights are used: tokens, or images times output positions.
        inputs: activations that come in.
    """

    rows: int
    columns: int
    nonzeros: int
    positions: int
    inputs: int

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense layer."""
        return self.rows * self.columns * self.positions


def gain(work: Work) -> float:
    """How many times faster than dense the sparse layer is expected to be.

    >>> round(gain(Work(3072, 768, 3072 * 768 // 10, 128, 768 * 128)), 1)
    4.5
    >>> gain(Work(512, 512, 512 * 512, 128, 512 * 128)) < 1
    True
    """
    dense, sparse = nanoseconds(work)
    return dense / sparse


def nanoseconds(work: Work) -> tuple[float, float]:
    """What one core takes for the layer, dense and sparse: estimates, of which only the ratios are to be relied on.

    >>> dense, sparse = nanoseconds(Work(4096, 4096, 4096 * 4096 // 10, 1, 4096))
    >>> dense > 5 * sparse
    True
    """
    if work.positions == 1:
        dense = 4 * work.rows * work.columns * _DENSE_BYTE
        sparse = work.nonzeros * _SPARSE_DOT + work.rows * _SPARSE_STORE
    else:
        # Few columns leave vectors partly empty, in dense kernels too.
        columns = -(-work.positions // 8) * 8
        dense = max(work.rows * work.columns * columns * _DENSE_MAC, 4 * work.rows * work.columns * _DENSE_BYTE)
        if work.positions <= _MOST_FEW:
            samples = 2 if work.positions == 2 else 4 if work.positions <= 4 else 8
            products = work.nonzeros * (_SPARSE_READ + samples * _SPARSE_MAC)
            products += work.rows * work.positions * _SPARSE_STORE
        else:
            results = work.rows * columns
            small_blocks = results * work.columns * _SPARSE_ROW
            large_blocks = results * _SPARSE_WHOLE + work.nonzeros * columns * _SPARSE_FAR
            products = work.nonzeros * columns * _SPARSE_MAC + results * _SPARSE_STORE
            products += min(small_blocks, large_blocks)
        sparse = products + work.inputs * _SPARSE_PACK
    return dense + _CALL, sparse + _CALL


def fewest_nanoseconds(work: Work) -> float:
    """Those of the layer as it would be run: sparse where that promises enough.

    >>> full = Work(512, 512, 512 * 512, 128, 512 * 128)
    >>> fewest_nanoseconds(full) == nanoseconds(full)[0]
    True
    """
    dense, sparse = nanoseconds(work)
    return sparse if dense >= MARGIN * sparse else dense
