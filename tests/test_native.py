"""The extension module as Python sees it.  native/tests holds the exhaustive tests of the codecs themselves."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import isogrid
from isogrid import _native

Encode = Callable[[NDArray[np.int64], int], bytes]
Decode = Callable[[bytes, int, int], NDArray[np.int64]]
CODECS: list[tuple[Encode, Decode]] = [
    (_native.rice_encode, _native.rice_decode),
    (_native.bitmap_encode, _native.bitmap_decode),
]
LARGEST = 2**48
"""The most weights of a tensor that the codecs accept."""

encoders = pytest.mark.parametrize("encode", [encode for encode, _ in CODECS], ids=["rice", "bitmap"])
decoders = pytest.mark.parametrize("decode", [decode for _, decode in CODECS], ids=["rice", "bitmap"])
both_codecs = pytest.mark.parametrize(("encode", "decode"), CODECS, ids=["rice", "bitmap"])


@st.composite
def placed(draw: st.DrawFn, most: int = 400) -> tuple[NDArray[np.int64], int]:
    """Positions in a tensor and its size: none, few, many, all, and any clusters between."""
    size = draw(st.integers(0, most))
    if size and draw(st.booleans()):
        chosen = draw(st.sets(st.integers(0, size - 1), max_size=size))
    else:
        density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.95, 1.0]))
        chosen = set(np.flatnonzero(np.random.default_rng(draw(st.integers(0, 999))).random(size) < density).tolist())
    return np.array(sorted(chosen), dtype=np.int64), size


def rice_reference(positions: NDArray[np.int64], parameter: int) -> bytes:
    """The format as native/include/isogrid/rice.hpp states it, one bit at a time."""
    bits: list[int] = []
    for gap in (np.diff(positions, prepend=-1) - 1).tolist():
        bits += [0] * (gap >> parameter) + [1] + [gap >> i & 1 for i in range(parameter)]
    return bytes([parameter]) + np.packbits(np.array(bits, dtype=np.uint8), bitorder="little").tobytes()


@both_codecs
@given(placed())
def test_what_is_encoded_is_decoded(encode: Encode, decode: Decode, case: tuple[NDArray[np.int64], int]) -> None:
    positions, size = case
    decoded = decode(encode(positions, size), len(positions), size)
    assert decoded.dtype == np.int64
    assert decoded.tolist() == positions.tolist()


@given(placed())
def test_rice_bytes_are_the_shortest_of_the_format(case: tuple[NDArray[np.int64], int]) -> None:
    positions, size = case
    encoded = _native.rice_encode(positions, size)
    assert encoded == rice_reference(positions, encoded[0])
    assert len(encoded) == min(len(rice_reference(positions, parameter)) for parameter in range(12))


@given(placed())
def test_bitmap_bytes_are_numpys_packed_bits(case: tuple[NDArray[np.int64], int]) -> None:
    positions, size = case
    mask = np.zeros(size, dtype=bool)
    mask[positions] = True
    assert _native.bitmap_encode(positions, size) == np.packbits(mask, bitorder="little").tobytes()


def test_the_example_of_the_format() -> None:
    assert _native.rice_encode(np.array([2, 3, 9]), 10) == bytes([0x01, 0x8A, 0x01])
    assert _native.bitmap_encode(np.array([2, 3, 9]), 10) == bytes([0x0C, 0x02])


def test_a_tensor_of_the_largest_size() -> None:
    positions = np.array([0, 1, 2**40, LARGEST - 1])
    assert _native.rice_decode(_native.rice_encode(positions, LARGEST), 4, LARGEST).tolist() == positions.tolist()


@both_codecs
@given(placed(), st.data())
def test_truncated_data_is_refused(
    encode: Encode, decode: Decode, case: tuple[NDArray[np.int64], int], data: st.DataObject
) -> None:
    positions, size = case
    encoded = encode(positions, size)
    if encoded:
        length = data.draw(st.integers(0, len(encoded) - 1))
        with pytest.raises(ValueError, match=r"data ends before|data is empty|must have exactly"):
            decode(encoded[:length], len(positions), size)


@both_codecs
@given(placed(), st.binary(min_size=1, max_size=9))
def test_overlong_data_is_refused(
    encode: Encode, decode: Decode, case: tuple[NDArray[np.int64], int], tail: bytes
) -> None:
    positions, size = case
    with pytest.raises(ValueError, match=r"goes on after|must have exactly"):
        decode(encode(positions, size) + tail, len(positions), size)


@both_codecs
@given(placed(), st.integers(-3, 500))
def test_no_other_count_is_accepted(
    encode: Encode, decode: Decode, case: tuple[NDArray[np.int64], int], count: int
) -> None:
    positions, size = case
    if count != len(positions):
        with pytest.raises(ValueError, match=r"count|data|bitmap"):
            decode(encode(positions, size), count, size)


@both_codecs
@settings(max_examples=400)
@given(placed(), st.data())
def test_damaged_data_is_refused_or_gives_valid_positions(
    encode: Encode, decode: Decode, case: tuple[NDArray[np.int64], int], data: st.DataObject
) -> None:
    positions, size = case
    damaged = bytearray(encode(positions, size))
    for bit in data.draw(st.lists(st.integers(0, max(0, 8 * len(damaged) - 1)), min_size=1, max_size=3)):
        if damaged:
            damaged[bit // 8] ^= 1 << bit % 8
    _refused_or_valid(encode, decode, bytes(damaged), len(positions), size)


@both_codecs
@settings(max_examples=400)
@given(st.binary(max_size=64), st.integers(-1, 2**62), st.integers(-1, 2**62))
def test_any_bytes_and_any_claims_are_refused_or_give_valid_positions(
    encode: Encode, decode: Decode, noise: bytes, count: int, size: int
) -> None:
    for claim in (count, count % 70, 0):
        for extent in (size, size % 500, LARGEST):
            _refused_or_valid(encode, decode, noise, claim, extent)


def _refused_or_valid(encode: Encode, decode: Decode, data: bytes, count: int, size: int) -> None:
    try:
        decoded = decode(data, count, size)
    except ValueError as refusal:
        assert str(refusal)  # noqa: PT017 - a refusal is one of two right answers
        return
    assert decoded.shape == (count,)
    encode(decoded, size)  # refuses what is not strictly ascending within the size
    if decode is _native.bitmap_decode:
        assert encode(decoded, size) == data
    else:
        assert rice_reference(decoded, data[0]) == data


@decoders
def test_a_huge_claim_allocates_nothing(decode: Decode) -> None:
    # 2**47 positions would be a petabyte: only a check before the allocation answers with ValueError.
    for count in (2**40, 2**47, LARGEST):
        with pytest.raises(ValueError, match=r"data ends before|must have exactly"):
            decode(b"\x00\xff\xff", count, LARGEST)


@encoders
@pytest.mark.parametrize(
    ("positions", "size", "said"),
    [
        ([-1], 10, "strictly ascending"),
        ([10], 10, "strictly ascending"),
        ([3, 3], 10, "strictly ascending"),
        ([4, 3], 10, "strictly ascending"),
        ([0], 0, "strictly ascending"),
        ([-(2**63), 2**63 - 1], 10, "strictly ascending"),
        ([], -1, "size must lie in"),
        ([], LARGEST + 1, "size must lie in"),
    ],
)
def test_positions_that_are_refused(encode: Encode, positions: list[int], size: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encode(np.array(positions, dtype=np.int64), size)


@encoders
@pytest.mark.parametrize(
    "positions",
    [
        np.array([1.0, 2.0]),
        np.array([1, 2], dtype=np.int32),
        np.array([1, 2], dtype=np.uint64),
        np.array([[1, 2]]),
        np.array([1, 9, 2, 9])[::2],
        [1, 2],
        None,
    ],
    ids=["float64", "int32", "uint64", "two axes", "strided", "list", "none"],
)
def test_positions_are_never_converted(encode: Any, positions: object) -> None:
    with pytest.raises(TypeError):
        encode(positions, 10)


@decoders
def test_decoding_takes_bytes_only(decode: Any) -> None:
    for data in (bytearray(2), memoryview(b"ab"), "ab", None):
        with pytest.raises(TypeError):
            decode(data, 1, 10)


@both_codecs
def test_decoded_positions_belong_to_the_caller(encode: Encode, decode: Decode) -> None:
    encoded = encode(np.array([1, 5]), 8)
    first, second = decode(encoded, 2, 8), decode(encoded, 2, 8)
    first[0] = 0
    assert first.flags.writeable
    assert second.tolist() == [1, 5]


@both_codecs
def test_threads_do_not_disturb_one_another(encode: Encode, decode: Decode) -> None:
    cases = [np.flatnonzero(np.random.default_rng(seed).random(50_000) < 0.1) for seed in range(4)]

    def round_trips(positions: NDArray[np.int64]) -> bool:
        encoded = [encode(positions, 50_000) for _ in range(20)]
        return all(np.array_equal(decode(data, len(positions), 50_000), positions) for data in encoded)

    with ThreadPoolExecutor(max_workers=4) as pool:
        assert list(pool.map(round_trips, cases)) == [True] * 4


def test_the_core_is_of_the_packages_version() -> None:
    assert _native.version == isogrid.__version__


def test_the_processor_is_described() -> None:
    features = _native.cpu_features()
    assert features.pop("architecture") in {"x86_64", "aarch64", "other"}
    assert isinstance(features.pop("model"), str)
    assert all(type(flag) is bool for flag in features.values())
    assert {"avx2", "fma", "avx512f", "neon"} <= set(features)
    assert features["avx"] or not features["avx2"]
