"""What a score promises."""

from __future__ import annotations

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
from isogrid.scores import Score, parse_score

SHAPES = [(), (0,), (1,), (7,), (0, 3), (1, 1), (3, 5), (2, 3, 3, 1)]
DTYPES = [np.float16, np.float32, np.float64]


class ScoreConformance(ValueConformance):
    """Set `score`.  It is called with a weight, a gradient of the same shape and a seeded generator."""

    score: ClassVar[Score]
    parse = staticmethod(parse_score)

    @property
    def value(self) -> Score:
        return self.score

    def call(self, weight: NDArray[Any], gradient: NDArray[Any], seed: int = 0) -> NDArray[np.floating]:
        return self.score(weight, gradient=gradient, rng=np.random.default_rng(seed))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_one_real_number_a_weight(self, shape: tuple[int, ...], dtype: type[np.floating]) -> None:
        weight, gradient = (np.random.default_rng(seed).normal(size=shape).astype(dtype) for seed in (1, 2))
        weight, gradient = np.asarray(weight, dtype=dtype), np.asarray(gradient, dtype=dtype)
        for scored in (self.call(weight, gradient), self.call(np.zeros_like(weight), np.zeros_like(gradient))):
            assert isinstance(scored, np.ndarray)
            assert scored.shape == shape
            assert scored.dtype.kind == "f"
            assert Unstructured().mask(scored, weight.size // 2).sum() == weight.size // 2

    @seeded
    @given(st.data())
    def test_the_same_arguments_give_the_same_scores(self, data: st.DataObject) -> None:
        shape = data.draw(st.sampled_from(SHAPES))
        finite = st.floats(-1e6, 1e6, width=32)
        weight, gradient = (data.draw(hnp.arrays(np.float32, shape, elements=finite)) for _ in range(2))
        before = weight.copy(), gradient.copy()
        scored = self.call(weight, gradient)
        assert np.array_equal(scored, self.call(weight, gradient))
        assert np.array_equal(weight, before[0])
        assert np.array_equal(gradient, before[1])
        other_order = [np.flip(np.flip(array).copy()) for array in before]
        assert np.array_equal(scored, self.call(*other_order))

    def test_a_gradient_is_used_only_where_it_is_said_to_be_needed(self) -> None:
        weight, gradient = (np.random.default_rng(seed).normal(size=(4, 6)) for seed in (1, 2))
        with_gradient = self.call(weight, gradient)
        if self.score.needs_gradient:
            with pytest.raises(UsageError, match=f"{self.score} got no gradient"):
                self.score(weight, rng=np.random.default_rng(0))
            with pytest.raises(UsageError, match=r"shape \(4, 6\)"):
                self.call(weight, gradient.T)
            assert not np.array_equal(with_gradient, self.call(weight, gradient[::-1]))
        else:
            assert np.array_equal(with_gradient, self.score(weight, rng=np.random.default_rng(0)))
