"""Files that may be gzip-compressed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from isogrid.errors import DataError
from isogrid.tasks.gzipped import read_plain_or_gzip


def test_plain_and_compressed_bytes_are_the_same(tmp_path: Path) -> None:
    for name, stored in (("plain", b"words"), ("packed", gzip.compress(b"words")), ("empty", b"")):
        (tmp_path / name).write_bytes(stored)
        assert read_plain_or_gzip(tmp_path / name, "a list") == (b"words" if stored else b"")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: raw[:10] + b"\xff" * 9 + raw[19:], None])
def test_what_cannot_be_read_is_one_sentence(damage: object, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if callable(damage):
        path.write_bytes(damage(gzip.compress(b"many words " * 99)))
    with pytest.raises(DataError, match=r"file, named so, cannot be read \(.+\); accepted is a list, plain or gzip-"):
        read_plain_or_gzip(path, "a list", ", named so,")
