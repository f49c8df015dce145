"""One update of a topology: what is dropped, what is grown, and that the pattern holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance.outsiders import HalvesOfRows
from conformance.values import seeded
from isogrid.errors import PatternError
from isogrid.patterns import Block, Channel, FanIn, NofM, Pattern, Row, Unstructured
from isogrid.regrow import drop_and_grow

PATTERNS = [Unstructured(), FanIn(), Row(), Channel(), NofM(2, 4), Block(2, 2), HalvesOfRows()]
SHAPE = (6, 8)


def by_hand(
    mask: NDArray[np.bool_], worth: NDArray[Any], promise: NDArray[Any], fraction: float, pattern: Pattern
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The same by plain loops over groups."""
    grid = pattern.grid(mask.shape)
    active = pattern.fold(mask).all(axis=2)
    value, hope = pattern.fold(worth).sum(axis=2), pattern.fold(promise).sum(axis=2)
    droppable, free = [], {}
    for part in range(grid.partitions):
        free[part] = [group for group in range(grid.groups) if not active[part, group]]
        mine = sorted((value[part, group], part, group) for group in range(grid.groups) if active[part, group])
        droppable += mine[: len(free[part])]
    count = min(math.floor(fraction * int(active.sum()) + 1e-9), len(droppable))
    dropped, grown = np.zeros_like(active), np.zeros_like(active)
    for _, part, group in sorted(droppable)[:count]:
        dropped[part, group] = True
    for part in range(grid.partitions):
        best = sorted(free[part], key=lambda group: -hope[part, group])
        for group in best[: int(dropped[part].sum())]:
            grown[part, group] = True
    return pattern.spread(dropped, mask.shape), pattern.spread(grown, mask.shape)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@given(seed=st.integers(0, 2**32 - 1), active=st.integers(0, 48), fraction=st.floats(0, 1))
@seeded
def test_it_is_what_loops_over_groups_find(pattern: Pattern, seed: int, active: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    mask = pattern.mask(rng.random(SHAPE), active)
    worth, promise = rng.random(SHAPE), rng.random(SHAPE)
    dropped, grown = drop_and_grow(mask, worth, promise, fraction, pattern)
    wanted = by_hand(mask, worth, promise, fraction, pattern)
    assert np.array_equal(dropped, wanted[0])
    assert np.array_equal(grown, wanted[1])


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@given(seed=st.integers(0, 2**32 - 1), active=st.integers(0, 48), fraction=st.floats(0, 1))
@seeded
def test_each_part_keeps_its_count(pattern: Pattern, seed: int, active: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    mask = pattern.mask(rng.random(SHAPE), active)
    # Ties too: of weights just grown, and of units that are dead.
    worth, promise = rng.integers(0, 3, SHAPE).astype(float), np.zeros(SHAPE)
    dropped, grown = drop_and_grow(mask, worth, promise, fraction, pattern)
    assert not (dropped & ~mask).any()
    assert not (grown & mask).any()
    moved = (mask & ~dropped) | grown
    assert pattern.conforms(moved)
    assert np.array_equal(pattern.fold(moved).sum(axis=(1, 2)), pattern.fold(mask).sum(axis=(1, 2)))


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.29, 2), (0.3, 3), (0.31, 3), (1.0, 10)])
def test_the_share_is_rounded_down(fraction: float, count: int) -> None:
    mask = np.arange(40).reshape(4, 10) % 4 == 0
    dropped, grown = drop_and_grow(mask, np.ones(mask.shape), np.ones(mask.shape), fraction, Unstructured())
    assert dropped.sum() == grown.sum() == count


def test_a_dense_layer_and_an_empty_one_stay_as_they_are() -> None:
    for mask in (np.ones(SHAPE, bool), np.zeros(SHAPE, bool)):
        dropped, grown = drop_and_grow(mask, np.ones(SHAPE), np.ones(SHAPE), 1.0, Unstructured())
        assert not dropped.any()
        assert not grown.any()


def test_numbers_that_are_not_finite_are_refused() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[0] = True
    with pytest.raises(PatternError, match="not finite"):
        drop_and_grow(mask, np.full(SHAPE, np.nan), np.ones(SHAPE), 0.5, Unstructured())
