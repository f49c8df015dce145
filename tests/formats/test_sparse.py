import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isogrid.errors import FormatError, IsogridError, UsageError
from isogrid.formats.sparse import SparseTensor

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=7)
WEIGHTS = hnp.arrays(
    np.float32,
    SHAPES,
    elements=st.one_of(st.sampled_from([0.0, -0.0]), st.floats(-100, 100, width=32)),
)


@given(WEIGHTS)
def test_fp32_loses_nothing(array):
    tensor = SparseTensor.from_dense(array)
    tensor.validate()
    assert np.array_equal(tensor.to_dense(), array)
    assert tensor.nonzeros == np.count_nonzero(array)


@given(WEIGHTS, st.sampled_from(["fp16", "int8"]), st.integers(0, 3))
def test_rounding_twice_is_rounding_once_and_zeros_stay(array, values, axis):
    axis %= array.ndim
    once = SparseTensor.from_dense(array, values, axis)
    once.validate()
    dense = once.to_dense()
    assert not np.any(dense[array == 0])
    assert np.array_equal(SparseTensor.from_dense(dense, values, axis).to_dense(), dense)


@given(hnp.arrays(np.float32, (5, 9), elements=st.floats(-8, 8, width=32)))
def test_int8_is_within_half_a_step_of_each_row(array):
    dense = SparseTensor.from_dense(array, "int8").to_dense()
    step = np.abs(array).max(axis=1, keepdims=True) / 127
    # A scale is itself rounded, to 16 significant bits.
    assert np.all(np.abs(dense - array) <= 0.5 * step * (1 + 2**-7) + 1e-37)


@pytest.mark.parametrize("values", ["fp16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(values, bad):
    with pytest.raises(IsogridError, match=r"fc\.weight"):
        SparseTensor.from_dense(np.array([1.0, bad], np.float32), values, name="fc.weight")


def test_fp16_refuses_what_is_too_large_for_it():
    with pytest.raises(IsogridError, match="weight"):
        SparseTensor.from_dense(np.array([1e6], np.float32), "fp16")


def test_a_scalar_is_refused():
    with pytest.raises(UsageError, match="no axis"):
        SparseTensor.from_dense(np.float32(1.0))


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (SparseTensor((4,), np.array([3, 3]), np.ones(2, np.float32)), "ascending"),
        (SparseTensor((4,), np.array([-1, 3]), np.ones(2, np.float32)), "outside"),
        (SparseTensor((4,), np.array([1]), np.zeros(1, np.float32)), "zero"),
        (SparseTensor((4,), np.array([1]), np.ones(2, np.float32)), "as many"),
        (SparseTensor((4,), np.array([1]), np.ones(1, np.int8)), "scales"),
        (SparseTensor((2**41,), np.array([1]), np.ones(1, np.float32)), "not accepted"),
        (SparseTensor((4,), np.array([1], np.int32), np.ones(1, np.float32)), "int64"),
        (SparseTensor((2, 2), np.array([1]), np.array([-128], np.int8), np.ones(2, np.float32)), "-128"),
        (SparseTensor((2, 2), np.array([1]), np.array([1], np.int8), np.ones(3, np.float32)), "needs 2"),
    ],
)
def test_every_broken_promise_is_named(tensor, said):
    with pytest.raises(FormatError, match=said):
        tensor.validate()
