"""The idx format, whole and damaged."""

from __future__ import annotations

import contextlib
import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isogrid.errors import DataError
from isogrid.tasks.idx import read_idx


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)), st.booleans())
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, array: npt.NDArray[np.uint8], packed: bool
) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    found = read_idx(path)
    assert found.dtype == np.uint8
    assert np.array_equal(found, array)


WHOLE = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw[:-1], "declares 24 bytes of data and holds 23"),
        (lambda raw: raw + b"\0", "declares 24 bytes of data and holds 25"),
        (lambda raw: raw[:9], "ends within its header, after 9 bytes"),
        (lambda raw: raw[:3], "first bytes are 000008"),
        (lambda _: b"", "first bytes are missing"),
        (lambda raw: b"\1" + raw[1:], "no idx file of unsigned bytes; its first bytes are 01000803"),
        (lambda raw: raw[:2] + b"\x0d" + raw[3:], "no idx file of unsigned bytes"),
        (lambda raw: raw[:3] + b"\0" + raw[4:], "no idx file of unsigned bytes"),
        (lambda _: bytes([0, 0, 8, 70]) + struct.pack(">70I", *[1] * 70) + b"x", "no idx file of unsigned bytes"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "declares 79228162458924105385300197375 bytes"),
        (lambda raw: gzip.compress(raw)[:-9], "cannot be read"),
        (lambda raw: gzip.compress(raw)[:12], "cannot be read"),
        (lambda raw: gzip.compress(raw)[:-6] + b"\0" * 6, "cannot be read"),
        (lambda raw: gzip.compress(raw)[:10] + b"\xff" * 20, "cannot be read"),
        (lambda _: b"\x1f\x8b", "cannot be read"),
        (lambda raw: gzip.compress(raw[:9]), "ends within its header"),
    ],
)
def test_damage_is_one_sentence(tmp_path: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(damage(WHOLE))
    with pytest.raises(DataError) as problem:
        read_idx(path)
    assert said in str(problem.value)
    assert str(path) in str(problem.value)


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^\S*absent cannot be read \(No such file or directory\)"):
        read_idx(tmp_path / "absent")


@given(st.binary(max_size=80))
def test_any_bytes_are_an_array_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    for contents in (raw, b"\0\0\x08" + raw, b"\x1f\x8b" + raw):
        path.write_bytes(contents)
        with contextlib.suppress(DataError):
            assert read_idx(path).dtype == np.uint8
