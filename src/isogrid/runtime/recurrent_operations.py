"""The custom operator `isogrid::sparse_recurrent`: what `torch.compile` and `torch.export` see of an LSTM or GRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isogrid import _native
from isogrid.runtime.operations import LIBRARY, MADE, matrix_of

LSTM, GRU = 0, 1
GATES = {LSTM: 4, GRU: 3}
PARTS = ("row_begin", "column", "values", "scales")
KINDS = ("ih", "hh")
"""The two matrices of a pass, one layer in one direction: with its input and with the state before."""
BUFFERS = len(KINDS) * (len(PARTS) + 1)
"""Buffers of a pass: the parts of a matrix and a bias, twice."""


def make_passes(
    cell: int, input_size: int, hidden: int, directions: int, buffers: Sequence[Tensor | None]
) -> list[_native.Recurrent]:
    """A native operation for each layer and direction; `buffers` are theirs, one pass after the other."""
    passes = []
    for i in range(len(buffers) // BUFFERS):
        given = buffers[i * BUFFERS : (i + 1) * BUFFERS]
        wide, tall = given[: len(PARTS)], given[len(PARTS) + 1 : -1]
        columns = input_size if i < directions else hidden * directions
        rows = GATES[cell] * hidden
        matrices = [matrix_of(rows, columns, *wide), matrix_of(rows, hidden, *tall)]  # type: ignore[arg-type]
        arrays: list[Any] = [array for m in matrices for array in (m.row_begin, m.column, m.values, m.scales)]
        biases = [None if b is None else b.numpy() for b in (given[len(PARTS)], given[-1])]
        passes.append(_native.Recurrent(cell, directions == 2 and i % 2 == 1, columns, hidden, *arrays, *biases))
    return passes


def run_passes(
    passes: Sequence[_native.Recurrent], cell: int, hidden: int, directions: int, x: Tensor, steps: int, batch: int,
    sizes: Tensor | None, before: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """All layers over contiguous tokens ``[..., input_size]``: the last layer's states, and h and c after.

    `sizes`, int64 ``[steps]``, are those of a packed sequence; without them each step has the whole batch.
    """
    width = hidden * directions
    h = x.new_empty(len(passes), batch, hidden)
    c = x.new_empty(len(passes), batch, hidden) if cell == LSTM else None
    # A pass has its place in each of the states; the native core takes addresses, and 0 for what there is not.
    step = 4 * batch * hidden
    from_h, from_c = (0 if t is None else t.data_ptr() for t in before)
    to_h, to_c = h.data_ptr(), 0 if c is None else c.data_ptr()
    sizes_at = 0 if sizes is None else sizes.data_ptr()
    y = x
    for i, operation in enumerate(passes):
        direction = i % directions
        if direction == 0:
            x, y = y, x.new_empty(*x.shape[:-1], width)
            x_at, y_at = x.data_ptr(), y.data_ptr()
        operation.run(x_at, steps, batch, sizes_at, from_h, from_c, to_h, to_c, y_at + 4 * hidden * direction, width)
        from_h, from_c = from_h and from_h + step, from_c and from_c + step
        to_h, to_c = to_h + step, to_c + step
    return y, h, c


LIBRARY.define(
    "sparse_recurrent(Tensor x, Tensor? h, Tensor? c, Tensor?[] buffers, int cell, int hidden, int directions) "
    "-> (Tensor, Tensor, Tensor)"
)


def _recurrent(
    x: Tensor, h: Tensor | None, c: Tensor | None, buffers: Sequence[Tensor | None], cell: int, hidden: int,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    values = buffers[PARTS.index("values")]
    assert values is not None
    settings = (cell, hidden, directions, len(buffers), x.shape[-1])
    passes = MADE.get(values, settings, lambda: make_passes(cell, x.shape[-1], hidden, directions, buffers))
    x = x.contiguous()
    steps, batch = x.shape[:2]
    y, last_h, last_c = run_passes(passes, cell, hidden, directions, x, steps, batch, None, (h, c))
    return y, last_h, x.new_empty(0) if last_c is None else last_c


def _recurrent_shape(
    x: Tensor, h: Tensor | None, c: Tensor | None, buffers: Sequence[Tensor | None], cell: int, hidden: int,
    directions: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    steps, batch = x.shape[:2]
    states = (len(buffers) // BUFFERS, batch, hidden)
    last_c = x.new_empty(states) if cell == LSTM else x.new_empty(0)
    return x.new_empty((steps, batch, hidden * directions)), x.new_empty(states), last_c


LIBRARY.impl("sparse_recurrent", _recurrent, "CPU")
torch.library.register_fake("isogrid::sparse_recurrent", _recurrent_shape, lib=LIBRARY)


def call(
    x: Tensor, before: tuple[Any, Any], buffers: Sequence[Tensor | None], cell: int, hidden: int, directions: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operator, as a graph has it: `x` is ``[steps, batch, input_size]``."""
    y, h, c = torch.ops.isogrid.sparse_recurrent(x, *before, list(buffers), cell, hidden, directions)
    return y, h, c if cell == LSTM else None
