"""What a pattern promises."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from conformance.values import ValueConformance, seeded
from isogrid.errors import PatternError
from isogrid.patterns import Pattern, active_count, parse_pattern

Shape = tuple[int, ...]

SMALL_SHAPES: list[Shape] = [
    shape
    for axes, sizes in enumerate([(), (0, 1, 5), (0, 1, 2, 3, 4, 6, 8), (0, 1, 2, 3, 4), (1, 2, 4)])
    for shape in itertools.product(sizes, repeat=axes)
    if math.prod(shape) <= 64
]


class PatternConformance(ValueConformance):
    """Set `pattern`.  It is tried on all `SMALL_SHAPES` that fit it, and must refuse the others.

    If none fits (a block larger than 64 weights, say), test the pattern with smaller numbers.
    """

    pattern: ClassVar[Pattern]
    parse = staticmethod(parse_pattern)

    @property
    def value(self) -> Pattern:
        return self.pattern

    @classmethod
    def shapes(cls) -> list[Shape]:
        """The small shapes that the pattern accepts."""
        return _fitting(cls.pattern)

    @classmethod
    def draw_scores(cls, data: st.DataObject, most: int = 64) -> NDArray[Any]:
        """Scores on a shape that fits: whole numbers from -3 to 3, so ties abound and sums are exact."""
        shape = data.draw(st.sampled_from([shape for shape in cls.shapes() if math.prod(shape) <= most]))
        return data.draw(hnp.arrays(np.float32, shape, elements=st.integers(-3, 3)))

    def test_it_fits_a_small_shape(self) -> None:
        assert any(math.prod(shape) for shape in self.shapes())

    def test_a_shape_that_fits_fits_everywhere(self) -> None:
        for shape in self.shapes():
            zeros = np.zeros(shape)
            grid = self.pattern.grid(shape)
            assert grid.partitions * grid.groups * grid.size == zeros.size
            assert grid.step == grid.partitions * grid.size
            assert self.pattern.pool(zeros).shape == (grid.partitions, grid.groups)
            assert self.pattern.mask(zeros, 0).shape == shape
            assert self.pattern.conforms(zeros.astype(bool))

    def test_a_shape_that_does_not_fit_fits_nowhere(self) -> None:
        for shape in set(SMALL_SHAPES) - set(self.shapes()):
            zeros = np.zeros(shape)
            uses: list[tuple[Callable[..., object], *tuple[object, ...]]] = [
                (self.pattern.grid, shape),
                (self.pattern.pool, zeros),
                (self.pattern.mask, zeros, 0),
                (self.pattern.conforms, zeros.astype(bool)),
                (self.pattern.spread, np.zeros((1, 1), dtype=bool), shape),
            ]
            for use, *arguments in uses:
                with pytest.raises(PatternError, match="does not fit"):
                    use(*arguments)

    def test_unfold_undoes_fold(self) -> None:
        for shape in self.shapes():
            grid = self.pattern.grid(shape)
            array = np.arange(math.prod(shape)).reshape(shape)
            cells = self.pattern.fold(array)
            assert cells.shape == (grid.partitions, grid.groups, grid.size)
            assert np.array_equal(self.pattern.unfold(cells, shape), array)

    @seeded
    @given(st.data())
    def test_pool_sums_each_group(self, data: st.DataObject) -> None:
        scores = self.draw_scores(data)
        pooled = self.pattern.pool(scores)
        assert pooled.dtype == np.float64
        assert np.array_equal(pooled, self.pattern.fold(scores).sum(axis=2, dtype=np.float64))

    @seeded
    @given(st.data())
    def test_spread_makes_whole_groups_active(self, data: st.DataObject) -> None:
        shape = data.draw(st.sampled_from(self.shapes()))
        grid = self.pattern.grid(shape)
        kept = data.draw(hnp.arrays(np.bool_, (grid.partitions, grid.groups)))
        mask = self.pattern.spread(kept, shape)
        assert mask.dtype == np.bool_
        assert mask.shape == shape
        assert np.all(self.pattern.fold(mask) == kept[:, :, None])

    def test_spread_refuses_other_arrays(self) -> None:
        for shape in self.shapes():
            grid = self.pattern.grid(shape)
            for kept in (
                np.zeros((grid.partitions, grid.groups + 1), dtype=bool),
                np.zeros((grid.partitions, grid.groups)),
            ):
                with pytest.raises(PatternError, match="accepted is bool of shape"):
                    self.pattern.spread(kept, shape)

    @seeded
    @given(st.data())
    def test_mask_keeps_the_best_groups_and_the_lower_index_of_a_tie(self, data: st.DataObject) -> None:
        scores = self.draw_scores(data)
        active = data.draw(st.integers(0, scores.size))
        grid = self.pattern.grid(scores.shape)
        keep = active // max(grid.step, 1)
        expected = np.zeros((grid.partitions, grid.groups), dtype=bool)
        for partition, pooled in enumerate(self.pattern.pool(scores)):
            by_rank = sorted(range(grid.groups), key=lambda group: (-pooled[group], group))
            expected[partition, by_rank[:keep]] = True
        mask = self.pattern.mask(scores, active)
        assert mask.dtype == np.bool_
        assert mask.flags.c_contiguous
        assert np.array_equal(mask, self.pattern.spread(expected, scores.shape))
        assert self.pattern.conforms(mask)

    @seeded
    @given(st.data())
    def test_no_conforming_mask_does_better(self, data: st.DataObject) -> None:
        scores = self.draw_scores(data, most=9)
        active = data.draw(st.integers(0, scores.size))
        mask = self.pattern.mask(scores, active)
        rivals = []
        for bits in itertools.product([False, True], repeat=scores.size):
            rival = np.array(bits, dtype=bool).reshape(scores.shape)
            if rival.sum() <= active and self.pattern.conforms(rival):
                rivals.append((rival.sum(), scores[rival].sum()))
        assert (mask.sum(), scores[mask].sum()) == max(rivals)

    @seeded
    @given(st.data())
    def test_masks_of_the_same_scores_are_nested(self, data: st.DataObject) -> None:
        scores = self.draw_scores(data)
        fewer, more = sorted(data.draw(st.tuples(*[st.integers(0, scores.size)] * 2)))
        assert np.all(self.pattern.mask(scores, fewer) <= self.pattern.mask(scores, more))

    def test_mask_of_equal_scores_keeps_the_first_groups(self) -> None:
        for shape in self.shapes():
            grid = self.pattern.grid(shape)
            first = np.broadcast_to(np.arange(grid.groups) < grid.groups // 2, (grid.partitions, grid.groups))
            mask = self.pattern.mask(np.zeros(shape, dtype=np.float32), grid.groups // 2 * grid.step)
            assert np.array_equal(mask, self.pattern.spread(first, shape))

    def test_mask_of_nothing_and_of_everything(self) -> None:
        for shape in self.shapes():
            scores = np.random.default_rng(0).normal(size=shape)
            assert not self.pattern.mask(scores, 0).any()
            assert self.pattern.mask(scores, math.prod(shape)).all()

    def test_mask_meets_the_implied_sparsity_exactly(self) -> None:
        implied = self.pattern.implied_sparsity
        for shape in self.shapes() if implied is not None else ():
            active = active_count(math.prod(shape), implied)
            assert self.pattern.mask(np.zeros(shape), active).sum() == active

    @seeded
    @given(st.data())
    def test_mask_depends_on_the_numbers_alone(self, data: st.DataObject) -> None:
        scores = self.draw_scores(data)
        active = data.draw(st.integers(0, scores.size))
        before = scores.copy()
        mask = self.pattern.mask(scores, active)
        assert np.array_equal(scores, before)
        reversed_twice = np.flip(np.flip(scores).copy())
        for same in (
            scores,
            np.asfortranarray(scores).reshape(scores.shape),
            reversed_twice,
            scores.astype(np.float16),
            scores.astype(np.float64),
            scores.astype(np.int8),
        ):
            assert np.array_equal(self.pattern.mask(same, np.int64(active)), mask)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_scores_that_are_not_finite_are_refused(self, bad: float) -> None:
        for shape in filter(math.prod, self.shapes()):
            scores = np.zeros(shape)
            scores.flat[-1] = bad
            with pytest.raises(PatternError, match=r"1 of .* not finite"):
                self.pattern.mask(scores, 0)
            with pytest.raises(PatternError, match=r"1 of .* not finite"):
                self.pattern.pool(scores)

    def test_scores_that_are_not_real_are_refused(self) -> None:
        for shape in self.shapes():
            with pytest.raises(PatternError, match="complex128"):
                self.pattern.mask(np.zeros(shape, dtype=complex), 0)

    def test_an_active_count_outside_the_tensor_is_refused(self) -> None:
        for shape in self.shapes():
            size = math.prod(shape)
            for active in (-1, size + 1):
                with pytest.raises(PatternError, match=f"accepted is 0 to {size}"):
                    self.pattern.mask(np.zeros(shape), active)

    @seeded
    @given(st.data())
    def test_a_mask_conforms_if_its_groups_are_whole_and_equally_many(self, data: st.DataObject) -> None:
        shape = data.draw(st.sampled_from(self.shapes()))
        mask = data.draw(hnp.arrays(np.bool_, shape))
        partitions = self.pattern.fold(mask).tolist()
        whole = all(len(set(group)) <= 1 for groups in partitions for group in groups)
        counts = {sum(map(all, groups)) for groups in partitions}
        assert self.pattern.conforms(mask) == (mask.size == 0 or (whole and len(counts) == 1))

    def test_a_mask_that_is_not_bool_is_refused(self) -> None:
        with pytest.raises(PatternError, match="masks are bool"):
            self.pattern.conforms(np.zeros(self.shapes()[-1]))


@functools.cache
def _fitting(pattern: Pattern) -> list[Shape]:
    fitting = []
    for shape in SMALL_SHAPES:
        with contextlib.suppress(PatternError):
            pattern.check(shape)
            fitting.append(shape)
    return fitting
