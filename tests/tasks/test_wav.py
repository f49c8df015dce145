"""WAV files, whole, odd and damaged."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogrid.errors import DataError
from isogrid.tasks.wav import read_wav


def wav(data: bytes, *, bits: int = 16, channels: int = 1, rate: int = 8000, kind: int = 1, claims: int = -1) -> bytes:
    frame = channels * bits // 8
    header = struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, bits)
    chunks = b"fmt " + struct.pack("<I", len(header)) + header
    chunks += b"data" + struct.pack("<I", len(data) if claims < 0 else claims) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


SOUND = np.array([0, 1 / 4, -1, 1 / 2], np.float32)
PCM16 = (SOUND * 32768).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("raw", "bits", "kind"),
    [
        ((SOUND * 128 + 128).astype(np.uint8).tobytes(), 8, 1),
        (PCM16, 16, 1),
        (b"".join(int(value * 2**23).to_bytes(3, "little", signed=True) for value in SOUND), 24, 1),
        ((SOUND * 2.0**31).astype("<i4").tobytes(), 32, 1),
        (SOUND.astype("<f4").tobytes(), 32, 3),
    ],
)
def test_every_size_of_sample_gives_the_same_sound(raw: bytes, bits: int, kind: int) -> None:
    found, rate = read_wav(wav(raw, bits=bits, kind=kind, rate=22050))
    assert found.dtype == np.float32
    assert (found.tolist(), rate) == (SOUND.tolist(), 22050)


def test_channels_are_averaged() -> None:
    both = np.array([[100, 300], [-200, 200]], "<i2")
    assert read_wav(wav(both.tobytes(), channels=2))[0].tolist() == [200 / 32768, 0]


def test_a_header_written_before_the_length_was_known() -> None:
    assert read_wav(wav(PCM16, claims=0x7FFFF000))[0].tolist() == SOUND.tolist()


def test_other_chunks_are_passed_over_and_half_a_frame_is_left() -> None:
    whole = wav(PCM16 + b"\1")
    noted = whole[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + whole[12:]
    assert read_wav(noted)[0].tolist() == SOUND.tolist()


def test_an_extensible_header_names_its_format_further_on() -> None:
    whole = wav(PCM16, kind=0xFFFE)
    longer = struct.pack("<HHI", 22, 16, 0) + struct.pack("<H", 1) + b"\0" * 14
    extended = whole[:16] + struct.pack("<I", 16 + len(longer)) + whole[20:36] + longer + whole[36:]
    assert read_wav(extended)[0].tolist() == SOUND.tolist()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda _: b"", "is no WAV file: it begins with nothing"),
        (lambda raw: b"OggS" + raw[4:], "is no WAV file: it begins with 4f676753"),
        (lambda raw: raw[:30], "its fmt chunk has 10 bytes, not 16"),
        (lambda raw: raw[:36], "holds no sound: its data chunk has 0 bytes"),
        (lambda raw: raw[:45], "holds no sound: its data chunk has 1 bytes"),
        (lambda _: wav(PCM16, kind=49), "1 channels of 16 bits at 8000 Hz in format 49"),
        (lambda _: wav(PCM16, bits=12), "1 channels of 12 bits"),
        (lambda _: wav(PCM16, channels=0), "0 channels of 16 bits"),
        (lambda _: wav(PCM16, rate=0), "at 0 Hz"),
        (lambda _: wav(struct.pack("<f", float("nan")), bits=32, kind=3), "samples that are not finite"),
    ],
)
def test_damage_is_one_sentence_with_the_file(tmp_path: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    path = tmp_path / "seven.wav"
    path.write_bytes(damage(wav(PCM16)))
    with pytest.raises(DataError) as problem:
        read_wav(path)
    assert said in str(problem.value)
    assert str(problem.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.wav cannot be read \(No such file or directory\); accepted are"):
        read_wav(tmp_path / "absent.wav")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_sound_or_a_data_error(raw: bytes) -> None:
    for contents in (raw, b"RIFF0000WAVE" + raw, wav(b"")[:12] + b"fmt \x10\0\0\0" + raw, wav(raw, bits=32, kind=3)):
        with contextlib.suppress(DataError):
            assert len(read_wav(contents)[0]) > 0
