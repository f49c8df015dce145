"""What a score promises."""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from conformance.values import ValueConformance, seeded
from isogrid.errors import UsageError
from isogrid.patterns import Unstructured
from isogrid.scores import STATISTICS, Score, parse_score

SHAPES = [(), (0,), (1,), (7,), (0, 3), (1, 1), (3, 5), (2, 3, 3, 1)]
DTYPES = [np.float16, np.float32, np.float64]


def all_of(array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Every statistic there is, each another array of that shape."""
    return {name: np.asarray(array * (1 + place), dtype=array.dtype) for place, name in enumerate(STATISTICS)}


class ScoreConformance(ValueConformance):
    """Set `score`.  It is called with a weight, every statistic in its shape and a seeded generator."""

    score: ClassVar[Score]
    parse = staticmethod(parse_score)

    @property
    def value(self) -> Score:
        return self.score

    def call(self, weight: NDArray[Any], seed: int = 0, **statistics: NDArray[Any] | None) -> NDArray[np.floating]:
        return self.score(weight, rng=np.random.default_rng(seed), **statistics)

    def test_it_needs_what_there_is_and_a_round_or_more(self) -> None:
        assert self.score.needs <= STATISTICS.keys()
        assert self.score.rounds >= 1

    def test_its_docstring_tells_the_source(self) -> None:
        assert re.search(r"Source: \w", inspect.getdoc(self.score) or "")

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_one_real_number_a_weight(self, shape: tuple[int, ...], dtype: type[np.floating]) -> None:
        weight, other = (np.random.default_rng(seed).normal(size=shape).astype(dtype) for seed in (1, 2))
        weight, other = np.asarray(weight, dtype=dtype), np.asarray(other, dtype=dtype)
        for known in (other, np.zeros_like(other)):
            scored = self.call(weight, **all_of(known))
            assert isinstance(scored, np.ndarray)
            assert scored.shape == shape
            assert scored.dtype.kind == "f"
            assert Unstructured().mask(scored, weight.size // 2).sum() == weight.size // 2

    def test_half_precision_is_left_where_its_range_ends(self) -> None:
        weight = np.array([3e4, -2e4, 1e-3], dtype=np.float16)
        known = dict.fromkeys(STATISTICS, np.array([300.0, 400.0, 1e-3], dtype=np.float16))
        scored = self.call(weight, **known)
        assert np.isfinite(scored).all()
        assert scored[2] != 0

    @seeded
    @given(st.data())
    def test_the_same_arguments_give_the_same_scores(self, data: st.DataObject) -> None:
        shape = data.draw(st.sampled_from(SHAPES))
        finite = st.floats(-1e6, 1e6, width=32)
        weight, other = (data.draw(hnp.arrays(np.float32, shape, elements=finite)) for _ in range(2))
        known = all_of(other)
        before = weight.copy(), {name: array.copy() for name, array in known.items()}
        scored = self.call(weight, **known)
        assert np.array_equal(scored, self.call(weight, **known))
        assert np.array_equal(weight, before[0])
        assert all(np.array_equal(known[name], array) for name, array in before[1].items())
        other_order = {name: np.flip(np.flip(array).copy()) for name, array in before[1].items()}
        assert np.array_equal(scored, self.call(np.flip(np.flip(weight).copy()), **other_order))

    @pytest.mark.parametrize("name", STATISTICS)
    def test_a_statistic_is_used_only_where_it_is_said_to_be_needed(self, name: str) -> None:
        weight, other = (np.random.default_rng(seed).normal(size=(4, 6)) for seed in (1, 2))
        known = all_of(other)
        scored = self.call(weight, **known)
        without = {**known, name: None}
        if name in self.score.needs:
            with pytest.raises(UsageError, match=f"{self.score} got no {name}: it needs"):
                self.call(weight, **without)
            with pytest.raises(UsageError, match=rf"got {name} of shape \(6, 4\).*shape \(4, 6\)"):
                self.call(weight, **{**known, name: known[name].T})
            assert not np.array_equal(scored, self.call(weight, **{**known, name: known[name][::-1]}))
        else:
            assert np.array_equal(scored, self.call(weight, **without))
            del without[name]
            assert np.array_equal(scored, self.call(weight, **without))

    def test_what_is_no_statistic_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"Unknown statistic 'gradients' \(did you mean 'gradient'\?\)"):
            self.call(np.ones(3), gradients=np.ones(3))
