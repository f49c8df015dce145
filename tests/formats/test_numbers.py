import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isogrid.errors import TrainingError, UnsupportedError, UsageError
from isogrid.formats.numbers import (
    SMALLEST_SCALE,
    exact_values,
    parse_values,
    restore_int8,
    round_fp16,
    round_int8,
    round_values,
    to_float32,
)

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**127), max_value=2.0**127)
WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6),
    elements=st.one_of(st.sampled_from([0.0, -0.0, 1e-45, 2.0**-126]), FINITE),
)


@given(WEIGHTS, st.integers(0, 3))
def test_int8_codes_times_scale_is_exact_and_rounding_again_gives_the_same_bits(weight, axis):
    axis %= weight.ndim
    codes, scale = round_int8(weight, axis)
    assert codes.shape == weight.shape
    assert scale.shape == (weight.shape[axis],)
    exact = codes.astype(np.float64) * np.expand_dims(
        scale.astype(np.float64), tuple(a for a in range(weight.ndim) if a != axis)
    )
    restored = restore_int8(codes, scale, axis)
    assert np.array_equal(restored, exact)
    again = round_int8(restored, axis)
    assert np.array_equal(again[0], codes)
    # The scale of a row that vanished is that of a row of zeros from then on.
    alive = codes.any(axis=tuple(a for a in range(weight.ndim) if a != axis))
    assert np.array_equal(again[1][alive], scale[alive])


@given(WEIGHTS, st.integers(0, 3))
def test_int8_is_within_half_a_step_everywhere(weight, axis):
    axis %= weight.ndim
    codes, scale = round_int8(weight, axis)
    step = np.expand_dims(scale.astype(np.float64), tuple(a for a in range(weight.ndim) if a != axis))
    assert np.all(np.abs(codes * step - weight) <= 0.5 * step)
    assert np.all(codes[weight == 0] == 0)


@given(WEIGHTS)
def test_the_largest_weight_of_every_row_gets_code_127(weight):
    codes, scale = round_int8(weight)
    for row, row_codes, row_scale in zip(weight, codes, scale, strict=True):
        if row.size and np.abs(row).max() > 127 * SMALLEST_SCALE:
            assert np.abs(row_codes).max() == 127
        elif not row.any():
            assert row_scale == 1.0


def test_int8_refuses_what_no_scale_holds():
    largest = float(np.finfo(np.float32).max)
    with pytest.raises(UnsupportedError, match=r"fc\.weight"):
        round_int8(np.array([[largest]]), name="fc.weight")
    assert round_int8(np.array([[largest / 1.001]]))[0].tolist() == [[127]]


@given(hnp.arrays(np.float32, (7,), elements=st.floats(-65408, 65408, width=32)))
def test_fp16_is_the_nearest_half(weight):
    rounded = round_fp16(weight).astype(np.float64)
    below, above = (np.nextafter(rounded.astype(np.float16), np.float16(way)) for way in (-np.inf, np.inf))
    distance = np.abs(rounded - weight)
    for neighbour in (below, above):
        seen = np.isfinite(neighbour)
        assert np.all(distance[seen] <= np.abs(neighbour.astype(np.float64) - weight)[seen])


def test_fp16_ends_where_numbers_round_to_infinity():
    assert round_fp16(np.array([65519.99])).tolist() == [65504.0]
    with pytest.raises(UnsupportedError, match="65504"):
        round_fp16(np.array([65520.0]))
    assert round_fp16(np.array([2.9e-8, -2.9e-8])).tolist() == [0.0, 0.0]


def test_fp32_keeps_what_is_not_finite_and_refuses_what_becomes_so():
    kept = to_float32(np.array([np.nan, np.inf, -np.inf]))
    assert np.array_equal(kept, np.array([np.nan, np.inf, -np.inf], np.float32), equal_nan=True)
    with pytest.raises(UnsupportedError, match=r"3\.4e38"):
        to_float32(np.array([1e39]))


@pytest.mark.parametrize("values", ["fp16", "int8"])
def test_what_is_not_finite_is_counted_and_named(values):
    with pytest.raises(TrainingError, match=r"conv\.weight holds 2 numbers"):
        round_values(np.array([[1.0, np.nan, -np.inf]]), values, name="conv.weight")


@given(WEIGHTS, st.sampled_from(["fp16", "int8"]), st.integers(0, 3))
def test_what_was_rounded_is_recognised(weight, values, axis):
    axis %= weight.ndim
    try:
        rounded = round_values(weight, values, axis)
    except UnsupportedError:
        return
    assert values in exact_values(rounded, axis)


def test_nan_is_exact_in_fp32_only():
    assert exact_values(np.array([[np.nan, 1.0]], np.float32)) == ("fp32",)


@pytest.mark.parametrize("text", ["int4", "", "FP32 ", "float16"])
def test_an_unknown_number_format_is_refused_with_the_known_ones(text):
    with pytest.raises(UsageError, match="fp32, fp16, int8"):
        parse_values(text)
