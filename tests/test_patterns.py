"""Patterns: each member's own definition, and the suite that all of them inherit."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from conformance.coverage import uncovered
from conformance.outsiders import HalvesOfRows
from conformance.patterns import PatternConformance
from conformance.values import seeded
from isogrid.errors import PatternError, UsageError
from isogrid.patterns import (
    Block,
    Channel,
    FanIn,
    Grid,
    NofM,
    Pattern,
    Row,
    Unstructured,
    active_count,
    nth_largest,
    parse_pattern,
    rankable,
)


class TestUnstructured(PatternConformance):
    pattern = Unstructured()

    def test_any_number_of_axes_fits(self) -> None:
        for shape in [(), (3,), (2, 3), (1, 2, 3, 4, 5, 6)]:
            assert self.pattern.grid(shape) == Grid(1, math.prod(shape), 1)

    def test_a_large_tensor_is_cut_as_by_a_stable_sort(self) -> None:
        scores = np.random.default_rng(0).integers(0, 50, size=(300, 301)).astype(np.float32)
        mask = self.pattern.mask(scores, 9_000)
        kept = np.sort(np.argsort(-scores, axis=None, kind="stable")[:9_000])
        assert np.array_equal(np.flatnonzero(mask), kept)


class TestTwoOfFour(PatternConformance):
    pattern = NofM(2, 4)

    def test_runs_lie_along_the_inputs(self) -> None:
        scores = np.random.default_rng(0).normal(size=(3, 8, 2, 2))
        mask = self.pattern.mask(scores, scores.size // 2)
        for output, run, y, x in np.ndindex(3, 2, 2, 2):
            here = (output, slice(4 * run, 4 * run + 4), y, x)
            assert mask[here].sum() == 2
            assert scores[here][mask[here]].min() > scores[here][~mask[here]].max()

    def test_a_gradual_method_may_pass_through_three_of_four(self) -> None:
        assert self.pattern.mask(np.arange(8.0).reshape(1, 8), 6).astype(int).tolist() == [[0, 1, 1, 1, 0, 1, 1, 1]]


class TestOneOfThree(PatternConformance):
    pattern = NofM(keep=1, of=3)


class TestAllOfTwo(PatternConformance):
    pattern = NofM(2, 2)

    def test_it_implies_a_dense_tensor(self) -> None:
        assert self.pattern.implied_sparsity == 0.0


class TestTallBlock(PatternConformance):
    pattern = Block(4, 1)


class TestSquareBlock(PatternConformance):
    pattern = Block(rows=2, cols=2)

    def test_tiles_lie_on_the_matrix_view(self) -> None:
        scores = np.random.default_rng(0).normal(size=(4, 2, 3))
        mask = self.pattern.mask(scores, 8).reshape(4, 6)
        tiles = {(y, x): scores.reshape(4, 6)[y : y + 2, x : x + 2].sum() for y in (0, 2) for x in (0, 2, 4)}
        best = sorted(tiles, key=lambda tile: -tiles[tile])[:2]
        assert {tile for tile in tiles if mask[tile]} == set(best)
        assert all(mask[y : y + 2, x : x + 2].all() for y, x in best)


class TestRow(PatternConformance):
    pattern = Row()

    def test_whole_outputs_are_kept(self) -> None:
        scores = np.random.default_rng(0).random(size=(5, 2, 3))
        mask = self.pattern.mask(scores, 12)
        best = np.argsort(scores.sum(axis=(1, 2)))[-2:]
        assert np.array_equal(mask, np.isin(np.arange(5), best)[:, None, None] & np.ones_like(mask))


class TestChannel(PatternConformance):
    pattern = Channel()

    def test_whole_inputs_are_kept(self) -> None:
        scores = np.random.default_rng(0).random(size=(2, 5, 3))
        mask = self.pattern.mask(scores, 12)
        best = np.argsort(scores.sum(axis=(0, 2)))[-2:]
        assert np.array_equal(mask, np.isin(np.arange(5), best)[None, :, None] & np.ones_like(mask))


class TestFanIn(PatternConformance):
    pattern = FanIn()

    def test_every_output_keeps_its_own_best(self) -> None:
        scores = np.random.default_rng(0).normal(size=(6, 4, 3))
        for row, mask in zip(scores, self.pattern.mask(scores, 6 * 5 + 5), strict=True):
            assert set(np.flatnonzero(mask)) == set(np.argsort(row, axis=None)[-5:])


class TestAPatternOfYourOwn(PatternConformance):
    pattern = HalvesOfRows()
    parse = None


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0])), st.data())
def test_the_nth_largest_is_that_of_the_sorted_numbers(values: NDArray[np.float32], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, values.size))
    assert nth_largest(values, n) == np.sort(values)[-n]


@pytest.mark.parametrize("equal", [0, 150, 200])
def test_wide_partitions_keep_what_a_stable_sort_keeps(equal: int) -> None:
    scores = np.random.default_rng(0).integers(0, 30, size=(3, 200)).astype(np.float32)
    scores[:, :equal] = -1  # as of weights that were pruned before
    kept = np.argsort(-scores, axis=1, kind="stable")[:, :60]
    wanted = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(wanted, kept, values=True, axis=1)
    assert np.array_equal(FanIn().mask(scores, 180), wanted)


def test_every_pattern_has_its_conformance_test() -> None:
    assert uncovered("Pattern", "PatternConformance") == []


def test_a_grid_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Row().grid((2, 3)).groups = 5


def test_a_pattern_without_conformance_test_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("class TestRow(PatternConformance):\n    pattern = Row()\n")
    found = uncovered("Pattern", "PatternConformance", tests=tmp_path)
    assert found == ["Block", "Channel", "FanIn", "NofM", "Unstructured"]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("2:4", NofM(2, 4)),
        ("block:16x1", Block(16, 1)),
        ("Fan-In", FanIn()),
        (" ROW ", Row()),
    ],
)
def test_text_is_read(text: str, pattern: Pattern) -> None:
    assert parse_pattern(text) == pattern


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unstructred", r"did you mean 'unstructured'\?"),
        ("chanel", r"did you mean 'channel'\?"),
        ("", "accepted are unstructured, row, channel, fan_in, N:M"),
        ("2:", "accepted are"),
        ("block:4", r"did you mean 'block:ROWSxCOLS \(block:4x1\)'|accepted are"),
        ("5:4", "1 <= N <= M"),
        ("0:4", "1 <= N <= M"),
        ("block:0x4", "at least 1 row"),
        ("block:-1x4", "accepted are"),
    ],
)
def test_text_that_names_no_pattern_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("pattern", "shape", "said"),
    [
        (NofM(2, 4), (8, 6), "the 6 inputs .* multiple of 4"),
        (Block(4, 1), (6, 4), "6 x 4 must be a multiple of 4 x 1"),
        (Block(1, 4), (6, 2, 3), "6 x 6 must be a multiple of 1 x 4"),
        (Row(), (6,), "at least 2 axes"),
    ],
)
def test_a_misfit_says_what_would_fit(pattern: Pattern, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(PatternError, match=said):
        pattern.check(shape)


@seeded
@given(
    hnp.arrays(np.float64, (6, 8), elements=st.floats(-1e30, 1e30)), st.sampled_from([Row(), Channel(), Block(3, 4)])
)
def test_pooled_scores_do_not_depend_on_the_memory_layout(scores: NDArray[np.float64], pattern: Pattern) -> None:
    assert np.array_equal(pattern.pool(scores), pattern.pool(np.asfortranarray(scores)))


def test_pooled_scores_do_not_depend_on_the_float_type() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 40_000)).astype(np.float32)
    assert np.array_equal(Row().pool(scores), Row().pool(scores.astype(np.float64)))


def test_negative_zero_ties_with_zero() -> None:
    assert Unstructured().mask(np.array([-0.0, 0.0, -0.0]), 1).tolist() == [True, False, False]


def test_rankable_keeps_floating_types() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        scores = np.ones(3, dtype=dtype)
        assert rankable(scores) is scores
    assert rankable(np.array([True, False])).tolist() == [1.0, 0.0]
    with pytest.raises(PatternError, match="<U1"):
        rankable(np.array(["a"]))


@seeded
@given(st.integers(0, 10**9), st.integers(0, 10**6))
def test_the_sparsity_asked_for_is_the_least_one_gets(size: int, millionths: int) -> None:
    exact = size - math.ceil(Fraction(millionths, 10**6) * size)
    assert active_count(size, millionths / 10**6) == exact


@seeded
@given(st.data(), st.integers(1, 10**9))
def test_the_sparsity_of_a_count_gives_the_count_back(data: st.DataObject, size: int) -> None:
    active = data.draw(st.integers(0, size))
    assert active_count(size, 1 - active / size) == active


@pytest.mark.parametrize(
    ("size", "sparsity", "active"),
    [(30, 0.1, 27), (100, 0.07, 93), (100, 0.29, 71), (3, 0.5, 1), (1, 0.01, 0), (1, 0.0, 1), (0, 0.5, 0), (5, 1.0, 0)],
)
def test_known_active_counts(size: int, sparsity: float, active: int) -> None:
    assert active_count(size, sparsity) == active


@pytest.mark.parametrize("sparsity", [-1e-9, 1.0001, math.nan, math.inf])
def test_a_sparsity_outside_0_to_1_is_refused(sparsity: float) -> None:
    with pytest.raises(UsageError, match="fraction from 0"):
        active_count(10, sparsity)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(UsageError, match="-1 weights"):
        active_count(-1, 0.5)
