"""The spoken digits: the same on every run, kept and found again, and the recordings of a human voice."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from isogrid.errors import DataError
from isogrid.tasks import cache, spoken_digits
from isogrid.tasks.spoken_digits import Amounts, Spoken, human_digits, script
from speech_needs import needs_espeak

FEW = Amounts(speakers=(1, 1), takes=(1, 1), copies=2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ISOGRID_CACHE", str(tmp_path / "cache"))
    spoken_digits._splits.cache_clear()
    yield
    spoken_digits._splits.cache_clear()


def made_anew() -> dict[str, Spoken]:
    spoken_digits._splits.cache_clear()
    return spoken_digits.spoken_digits(FEW)


def same(one: Spoken, other: Spoken) -> bool:
    tensors = ("features", "lengths", "labels")
    return one.voices == other.voices and all(torch.equal(getattr(one, t), getattr(other, t)) for t in tensors)


@needs_espeak
def test_every_run_makes_the_same_data_from_the_cache_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = made_anew()
    (kept,) = (tmp_path / "cache").iterdir()
    assert str(kept) in capsys.readouterr().err
    monkeypatch.setenv("ISOGRID_CACHE", str(tmp_path / "elsewhere"))
    second = made_anew()
    capsys.readouterr()

    def refuse(_: object) -> NoReturn:
        raise AssertionError("made again")

    monkeypatch.setattr(spoken_digits, "synthesise", refuse)
    third = made_anew()
    assert capsys.readouterr().err == ""
    for split, spoken in first.items():
        assert same(spoken, second[split])
        assert same(spoken, third[split])


@needs_espeak
def test_a_damaged_or_foreign_file_in_the_cache_is_replaced(tmp_path: Path) -> None:
    first = made_anew()
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"something else"):
        kept.write_bytes(damage)
        assert same(made_anew()["test"], first["test"])
        assert kept.read_bytes() == whole


@needs_espeak
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ISOGRID_CACHE", str(tmp_path / "file" / "cache"))
    assert len(made_anew()["train"].labels) == 4 * 10 * 2


@needs_espeak
def test_splits_have_voices_of_their_own_and_every_digit_as_often() -> None:
    made = made_anew()
    heard = {split: {part for voice in spoken.voices for part in voice.split("+")} for split, spoken in made.items()}
    assert not heard["train"] & heard["validation"]
    assert not heard["train"] & heard["test"]
    assert not heard["validation"] & heard["test"]
    for split, spoken in made.items():
        assert torch.bincount(spoken.labels).tolist() == [8 if split == "train" else 2] * 10
        assert len(spoken.voices) == len(spoken.labels) == len(spoken.features) == len(spoken.lengths)


@needs_espeak
def test_features_are_about_standard_and_nought_behind_the_end() -> None:
    spoken = made_anew()["train"]
    own = torch.arange(spoken.features.shape[1])[None] < spoken.lengths[:, None]
    assert (spoken.features[~own] == 0).all()
    assert abs(float(spoken.features[own].mean())) < 0.5
    assert 0.6 < float(spoken.features[own].std()) < 1.4
    assert spoken.lengths.max() == spoken.features.shape[1]
    assert len(set(spoken.lengths.tolist())) > 5
    # Two copies of one utterance are two different sounds.
    assert not torch.equal(spoken.features[0], spoken.features[1])


def test_fewer_voices_or_takes_say_a_part_of_what_more_do() -> None:
    more = script("test", ["en-gb-x-rp+m4", "en-gb-x-rp+f3"], 3)
    fewer = script("test", ["en-gb-x-rp+f3"], 2)
    assert set(fewer) < set(more)
    assert len(set(more)) == len(more) == 60
    assert all(120 <= said.speed <= 220 and 20 <= said.pitch <= 80 for said in more)
    assert {said.speed for said in script("train", ["en-gb-x-rp+f3"], 2)} != {said.speed for said in fewer}


def recording(rate: int) -> bytes:
    at = np.arange(rate // 2) / rate
    edges = np.clip((at - 0.1) / 0.01, 0, 1) * np.clip((0.5 - at) / 0.01, 0, 1)
    sound = (8000 * np.sin(2 * np.pi * 500 * at) * edges).astype("<i2")
    head = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    data = struct.pack("<4sI", b"data", sound.nbytes) + sound.tobytes()
    return b"RIFF" + struct.pack("<I", 28 + len(data)) + b"WAVEfmt " + head + data


@pytest.mark.parametrize("rate", [8000, 16000])
def test_recordings_of_ones_own_at_any_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    for digit in range(10):
        (tmp_path / f"{digit}.wav").write_bytes(recording(rate))
    monkeypatch.setenv("ISOGRID_SPOKEN_DIGITS", str(tmp_path))
    found = human_digits()
    assert found.labels.tolist() == list(range(10))
    # A little less than 0.4 s without the silence before them: 1 + (3190 - 256) // 128 frames.
    assert found.lengths.tolist() == [23.0] * 10
    assert found.features.shape == (10, 23, 40)


def test_recordings_that_are_not_there_are_asked_for_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOGRID_SPOKEN_DIGITS", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"apt-get install asterisk-core-sounds-en-wav.* ISOGRID_SPOKEN_DIGITS"):
        human_digits()
    monkeypatch.setenv("ISOGRID_SPOKEN_DIGITS", str(tmp_path))
    with pytest.raises(DataError, match=r"0\.wav cannot be read \(No such file"):
        human_digits()


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOGRID_CACHE", "/somewhere/kept")
    assert cache.cache_folder() == Path("/somewhere/kept")
    monkeypatch.delenv("ISOGRID_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.cache_folder() == Path("/xdg/isogrid")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache.cache_folder() == Path("/home/someone/.cache/isogrid")
