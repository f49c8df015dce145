"""Sparse matrices as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from isogrid.errors import TrainingError, UnsupportedError, UsageError
from isogrid.formats.numbers import round_values
from isogrid.runtime.matrix import VALUES, SparseMatrix

every_kind = pytest.mark.parametrize("values", VALUES)


@st.composite
def weights(draw: st.DrawFn) -> NDArray[np.float32]:
    """Any shape and density, some rows empty or full, and magnitudes that differ from row to row."""
    rows, columns = draw(st.integers(0, 12)), draw(st.integers(0, 20))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    dense = random.standard_normal((rows, columns)) * 10.0 ** random.integers(-3, 3, (rows, 1))
    dense[random.random((rows, columns)) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))] = 0
    dense[random.random(rows) < 0.2] = 0
    return dense.astype(np.float32)


@every_kind
@given(weights())
def test_the_arrays_are_compressed_rows(values: str, dense: NDArray[np.float32]) -> None:
    matrix = SparseMatrix.from_dense(dense, values)
    assert (matrix.rows, matrix.columns) == dense.shape
    assert (matrix.row_begin.dtype, matrix.column.dtype) == (np.int64, np.int32)
    assert matrix.row_begin.tolist() == [0, *np.cumsum(np.count_nonzero(dense, axis=1)).tolist()]
    for row in range(matrix.rows):
        entries = slice(matrix.row_begin[row], matrix.row_begin[row + 1])
        assert matrix.column[entries].tolist() == np.flatnonzero(dense[row]).tolist()
    assert matrix.entries == np.count_nonzero(dense)
    assert all(array.flags.c_contiguous for array in (matrix.row_begin, matrix.column, matrix.values))


@given(weights())
def test_fp32_holds_the_weights_themselves(dense: NDArray[np.float32]) -> None:
    matrix = SparseMatrix.from_dense(dense)
    assert matrix.values.dtype == np.float32
    assert matrix.scales is None
    np.testing.assert_array_equal(matrix.to_dense(), dense)


@given(weights())
def test_fp16_holds_the_bits_of_the_nearest_halves(dense: NDArray[np.float32]) -> None:
    matrix = SparseMatrix.from_dense(dense, "fp16")
    assert matrix.values.dtype == np.uint16
    assert matrix.scales is None
    np.testing.assert_array_equal(matrix.to_dense(), dense.astype(np.float16).astype(np.float32))


@given(weights())
def test_int8_is_within_half_a_step_and_keeps_the_largest_of_a_row(dense: NDArray[np.float32]) -> None:
    matrix = SparseMatrix.from_dense(dense, "int8")
    assert matrix.values.dtype == np.int8
    assert matrix.scales is not None
    assert (matrix.scales.dtype, matrix.scales.shape) == (np.float32, (dense.shape[0],))
    if dense.size == 0:
        return
    restored = matrix.to_dense()
    largest = np.abs(dense).max(axis=1)
    np.testing.assert_allclose(np.abs(restored).max(axis=1), largest, rtol=1e-5)
    assert (np.abs(restored - dense) <= 0.501 * matrix.scales[:, None]).all()
    assert (matrix.scales[largest == 0] == 1).all()
    if matrix.entries:
        assert np.abs(matrix.values.astype(int)).max() == 127


@every_kind
@given(weights())
def test_weights_that_were_rounded_before_stay_what_they_are(values: Any, dense: NDArray[np.float32]) -> None:
    if dense.size == 0:
        return
    rounded = round_values(dense, values)
    np.testing.assert_array_equal(SparseMatrix.from_dense(rounded, values).to_dense(), rounded)


def test_a_weight_that_rounds_to_zero_stays_in_the_matrix() -> None:
    matrix = SparseMatrix.from_dense(np.array([[127.0, 0.1, 0.0]]), "int8")
    assert matrix.column.tolist() == [0, 1]
    assert matrix.values.tolist() == [127, 0]


def test_the_array_may_have_any_order_and_is_not_kept() -> None:
    dense = np.arange(6, dtype=np.float64).reshape(2, 3)
    for array in (dense, np.asfortranarray(dense), dense[::-1, ::2]):
        matrix = SparseMatrix.from_dense(array)
        before = array.copy()
        np.testing.assert_array_equal(matrix.to_dense(), before)
    matrix = SparseMatrix.from_dense(dense)
    dense[:] = -1
    assert matrix.to_dense().tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(("values", "entry"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_bytes_are_those_of_all_arrays(values: str, entry: int) -> None:
    matrix = SparseMatrix.from_dense(np.eye(5), values)
    assert matrix.bytes == 6 * 8 + 5 * 4 + 5 * entry + (5 * 4 if values == "int8" else 0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_another_number_of_axes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=f"{len(shape)} axes"):
        SparseMatrix.from_dense(np.ones(shape))


def test_unknown_values_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'int4': accepted are fp32, fp16, int8\."):
        SparseMatrix.from_dense(np.eye(2), "int4")


def test_a_weight_that_no_half_holds_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"^fc\.weight holds 1e\+06, beyond 65504, the largest fp16 number"):
        SparseMatrix.from_dense(np.array([[0, 1e6]]), "fp16", name="fc.weight")
    assert SparseMatrix.from_dense(np.array([[0, 65504]]), "fp16").to_dense().tolist() == [[0, 65504]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_cannot_be_rounded(bad: float) -> None:
    dense = np.array([[0, bad], [2, 0]])
    for values in ("fp16", "int8"):
        with pytest.raises(
            TrainingError, match=r"^fc\.weight holds 1 numbers that are not finite; only finite weights"
        ):
            SparseMatrix.from_dense(dense, values, name="fc.weight")
    np.testing.assert_array_equal(SparseMatrix.from_dense(dense).to_dense(), dense)
