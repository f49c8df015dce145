import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isogrid.errors import FormatError
from isogrid.formats.packed import pack_matrix, unpack_matrix
from isogrid.formats.sparse import SparseTensor

VALUES = ["fp32", "fp16", "int8"]


def weight(sparsity, shape=(30, 40)):
    rng = np.random.default_rng(0)
    dense = rng.normal(size=shape).astype(np.float32)
    return dense * (rng.random(shape) >= sparsity)


def changed(data, offset, new):
    return data[:offset] + new + data[offset + len(new) :]


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
        elements=st.sampled_from([0.0, 0.0, 0.0, -0.0, 0.5, -3.0, 1e-3]),
    ),
    st.sampled_from(VALUES),
)
@settings(max_examples=150, deadline=None)
def test_round_trip(array, values):
    tensor = SparseTensor.from_dense(array, values)
    data = pack_matrix(tensor)
    read = unpack_matrix(data)
    assert read.shape == tensor.shape
    assert np.array_equal(read.positions, tensor.positions)
    assert read.values.dtype == tensor.values.dtype
    assert np.array_equal(read.values, tensor.values)
    assert read.scale is tensor.scale is None or np.array_equal(read.scale, tensor.scale)
    assert pack_matrix(read) == data


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize(("sparsity", "positions"), [(0.95, 0), (0.5, 1), (0.0, 2)])
def test_the_header_says_what_follows(values, sparsity, positions):
    tensor = SparseTensor.from_dense(weight(sparsity), values)
    data = pack_matrix(tensor)
    assert data[:8] == b"isogrid\x01"
    assert struct.unpack("<BBHIIIQ", data[8:32]) == (VALUES.index(values), positions, 0, 30, 40, 0, tensor.nonzeros)
    if positions == 2:
        scales = 3 * 30 if values == "int8" else 0
        assert len(data) == 32 + scales + 1200 * tensor.values.itemsize


def test_nine_tenths_of_zeros_take_a_seventh_of_the_bytes():
    dense = weight(0.9, (512, 512))
    assert len(pack_matrix(SparseTensor.from_dense(dense))) < 0.14 * dense.nbytes
    assert len(pack_matrix(SparseTensor.from_dense(dense, "int8"))) < 0.07 * dense.nbytes


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("sparsity", [0.95, 0.5, 0.0])
def test_a_missing_or_a_spare_byte_is_found(values, sparsity):
    data = pack_matrix(SparseTensor.from_dense(weight(sparsity, (6, 10)), values))
    for length in range(len(data)):
        with pytest.raises(FormatError, match="packed matrix cannot be read"):
            unpack_matrix(data[:length])
    with pytest.raises(FormatError):
        unpack_matrix(data + b"\0")


GOOD = pack_matrix(SparseTensor.from_dense(weight(0.9), "int8"))


@pytest.mark.parametrize(
    ("offset", "new", "said"),
    [
        (0, b"x", "something else"),
        (7, b"\x02", "version 2"),
        (8, b"\x03", "mean nothing"),
        (9, b"\x03", "mean nothing"),
        (10, b"\x01", "mean nothing"),
        (20, b"\x01", "mean nothing"),
        (12, struct.pack("<I", 0), "between"),
        (12, struct.pack("<I", 2**28 + 1), "between"),
        (16, struct.pack("<I", 0), "between"),
        (16, struct.pack("<I", 2**28 + 1), "between"),
        (12, struct.pack("<II", 2**21, 2**21), "at most"),
        (24, struct.pack("<Q", 2**63), "do not go together"),
        (24, struct.pack("<Q", 7), "damaged"),
        (32, b"\0\0\0", "scale"),
        (32, b"\0\xc0\x7f", "scale"),
        (-1, b"\x80", "-128"),
        (-1, b"\x00", "zero"),
    ],
)
def test_each_kind_of_damage_is_named(offset, new, said):
    with pytest.raises(FormatError, match=said):
        unpack_matrix(changed(GOOD, offset % len(GOOD), new))


@pytest.mark.parametrize("values", ["fp32", "fp16"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(values, number):
    tensor = SparseTensor.from_dense(weight(0.9), values)
    data = pack_matrix(tensor)
    last = np.array([number], tensor.values.dtype).tobytes()
    with pytest.raises(FormatError, match="finite"):
        unpack_matrix(data[: -len(last)] + last)
    tensor.values[-1] = number
    with pytest.raises(FormatError, match="finite"):
        pack_matrix(tensor)


def test_only_matrices_with_scales_of_rows_are_packed():
    with pytest.raises(FormatError, match="two axes"):
        pack_matrix(SparseTensor.from_dense(np.ones(3)))
    with pytest.raises(FormatError, match="two axes"):
        pack_matrix(SparseTensor.from_dense(np.zeros((3, 0))))
    with pytest.raises(FormatError, match="axis 1"):
        pack_matrix(SparseTensor.from_dense(np.eye(3), "int8", axis=1))
    with pytest.raises(FormatError, match="ascending"):
        pack_matrix(SparseTensor((2, 2), np.array([1, 0]), np.ones(2, np.float32)))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_any_damaged_byte_gives_an_error_or_a_sound_matrix(offset, byte):
    with contextlib.suppress(FormatError):
        unpack_matrix(changed(GOOD, offset, bytes([byte]))).validate()


def test_a_huge_claim_takes_no_memory():
    data = changed(GOOD, 12, struct.pack("<II", 2**20, 2**20))
    tracemalloc.start()
    with pytest.raises(FormatError):
        unpack_matrix(data)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
