"""What a penalty promises."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from conformance.values import ValueConformance, seeded
from isogrid.errors import UsageError
from isogrid.penalties import Penalty

shapes = hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)
weights = hnp.arrays(np.float64, shapes, elements=st.floats(-3, 3, width=32))
steps = st.floats(0.0, 2.0)


class PenaltyConformance(ValueConformance):
    """Set `penalty`, with strengths above zero."""

    penalty: ClassVar[Penalty]
    parse = None

    @property
    def value(self) -> Penalty:
        return self.penalty

    def shrunk(self, weight: Tensor, step: float | Tensor) -> Tensor:
        shrunk = weight.clone()
        self.penalty.shrink_(shrunk, step)
        return shrunk

    @seeded
    @given(weights)
    def test_it_is_nonnegative_even_and_zero_at_zero(self, array: np.ndarray[Any, Any]) -> None:
        weight = torch.from_numpy(array)
        value = self.penalty.value(weight)
        assert value.shape == ()
        assert value >= 0
        assert torch.isclose(self.penalty.value(-weight), value)
        assert self.penalty.value(torch.zeros_like(weight)) == 0

    @seeded
    @given(weights, st.floats(1.5, 4.0))
    def test_it_grows_away_from_zero(self, array: np.ndarray[Any, Any], factor: float) -> None:
        weight = torch.from_numpy(array)
        if bool((weight.abs() > 1e-3).any()):
            assert self.penalty.value(factor * weight) > self.penalty.value(weight)

    @seeded
    @given(weights, steps, st.integers(0, 2**31))
    def test_the_proximal_step_minimises_what_it_should(
        self, array: np.ndarray[Any, Any], step: float, seed: int
    ) -> None:
        weight = torch.from_numpy(array)

        def objective(candidate: Tensor) -> float:
            return float(step * self.penalty.value(candidate) + 0.5 * (candidate - weight).square().sum())

        best = self.shrunk(weight, step)
        generator = torch.Generator().manual_seed(seed)
        for scale in (1e-3, 1e-1, 1.0):
            other = best + scale * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            assert objective(best) <= objective(other) + 1e-9
        assert objective(best) <= objective(weight) + 1e-9
        assert objective(best) <= objective(torch.zeros_like(weight)) + 1e-9

    @seeded
    @given(weights, steps)
    def test_the_proximal_step_shrinks_and_never_turns_a_sign(self, array: np.ndarray[Any, Any], step: float) -> None:
        weight = torch.from_numpy(array)
        after = self.shrunk(weight, step)
        assert bool((after.abs() <= weight.abs()).all())
        assert bool((after * weight >= 0).all())
        assert bool(after.isfinite().all())

    @seeded
    @given(weights, steps)
    def test_a_step_size_a_weight_that_is_the_same_everywhere_is_that_step(
        self, array: np.ndarray[Any, Any], step: float
    ) -> None:
        weight = torch.from_numpy(array)
        everywhere = torch.full_like(weight, step)
        assert torch.allclose(self.shrunk(weight, everywhere), self.shrunk(weight, step), atol=1e-12)

    def test_no_step_moves_nothing(self) -> None:
        weight = torch.randn(4, 5)
        assert torch.equal(self.shrunk(weight, 0.0), weight)
        assert torch.equal(self.shrunk(weight, torch.zeros(4, 5)), weight)

    def test_the_gradient_is_that_of_the_formula(self) -> None:
        weight = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(self.penalty.value, (weight,))

    def test_the_gradient_at_zero_is_finite(self) -> None:
        weight = torch.zeros(3, 4, requires_grad=True)
        self.penalty.value(weight).backward()
        assert weight.grad is not None
        assert not weight.grad.any()

    def test_it_makes_zeros_as_it_says(self) -> None:
        weight = torch.full((4, 4), 1e-4)
        assert bool((self.shrunk(weight, 1.0) == 0).all()) == self.penalty.makes_zeros

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
    def test_odd_shapes(self, shape: tuple[int, ...]) -> None:
        weight = torch.ones(shape)
        assert bool(self.penalty.value(weight).isfinite())
        assert self.shrunk(weight, 0.5).shape == shape

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_types_are_kept(self, dtype: torch.dtype) -> None:
        weight = torch.randn(4, 4).to(dtype)
        assert self.penalty.value(weight).dtype == dtype
        assert self.shrunk(weight, 0.1).dtype == dtype
        assert self.shrunk(weight, torch.full((4, 4), 0.1)).dtype == dtype

    @pytest.mark.parametrize("strength", [-1e-9, math.nan, math.inf])
    def test_bad_strengths_are_refused(self, strength: float) -> None:
        for field in dataclasses.fields(self.penalty):
            if isinstance(getattr(self.penalty, field.name), float):
                with pytest.raises(UsageError, match=f"{field.name}={strength!r}; accepted is a finite number >= 0"):
                    dataclasses.replace(self.penalty, **{field.name: strength})
