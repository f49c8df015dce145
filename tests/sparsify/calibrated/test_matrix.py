from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogrid.patterns import Block, NofM
from isogrid.sparsify.calibrated.matrix import MatrixView


@given(st.sampled_from([(8, 4), (8, 4, 3), (8, 4, 2, 3)]), st.sampled_from([1, 2, 4]), st.booleans())
def test_canonical_undoes_matrix(shape: tuple[int, ...], groups: int, inputs_last: bool) -> None:
    view = MatrixView(shape, groups, inputs_last)
    weight = torch.arange(float(np.prod(shape))).reshape(shape)
    matrix = view.matrix(weight)
    assert matrix.shape == (groups, 8 // groups, view.columns)
    assert torch.equal(view.canonical(matrix), weight)


def test_columns_lie_as_the_patterns_see_them() -> None:
    shape = (4, 8, 3, 2)
    scores = np.random.default_rng(0).random(shape)
    runs = MatrixView(shape, inputs_last=True).matrix(torch.from_numpy(NofM(2, 4).mask(scores, 96)))
    assert bool((runs.reshape(4, 12, 4).sum(dim=2) == 2).all())
    tiles = MatrixView(shape).matrix(torch.from_numpy(Block(2, 3).mask(scores, 96))).reshape(2, 2, 16, 3)
    assert set(tiles.sum(dim=(1, 3)).flatten().tolist()) == {0, 6}


@given(st.booleans())
def test_moments_follow_the_columns(inputs_last: bool) -> None:
    view = MatrixView((2, 3, 4), 1, inputs_last)
    rows = torch.randn(5, 1, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = rows.transpose(0, 1)
    moved = torch.cat([view.matrix(row.reshape(1, 3, 4).expand(2, 3, 4))[:, :1] for row in rows], dim=1)
    torch.testing.assert_close(view.moments(inputs.mT @ inputs), moved.mT @ moved)
    torch.testing.assert_close(view.moments(inputs.square().sum(dim=1)), moved.square().sum(dim=1))
