"""Whole voices are held out: neither an accent nor a speaker is in two splits."""

from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from isogrid.errors import DataError
from isogrid.tasks import espeak
from isogrid.tasks.espeak import Utterance, installed, synthesise, trimmed
from isogrid.tasks.voices import ACCENTS, SPEAKERS, voices
from speech_needs import needs_espeak


def family(speaker: str) -> str:
    """klatt of klatt2, anika of anikaRobot, andy of AnxiousAndy, whisper of whisperf; m1 and m2 are two people."""
    name = speaker.lower()
    if re.fullmatch(r"[fm]\d", name):
        return name
    name = name.rstrip("0123456789").removeprefix("anxious")
    return name.removesuffix("robot") if name != "unirobot" else name


def test_no_accent_and_no_speaker_or_relative_is_in_two_splits() -> None:
    for one, other in itertools.combinations(SPEAKERS, 2):
        assert not set(ACCENTS[one]) & set(ACCENTS[other])
        assert not {family(s) for s in SPEAKERS[one]} & {family(s) for s in SPEAKERS[other]}
    assert family("whisperf").startswith("whisper")
    assert {"whisper", "whisperf"} <= set(SPEAKERS["train"])
    for split, speakers in SPEAKERS.items():
        assert len(set(speakers)) == len(speakers) >= 16, split


def test_voices_that_are_not_installed_are_left_out() -> None:
    accents, speakers = {"en-gb-x-rp", "en-us"}, {"m4", "belinda", "f3", "m1"}
    assert voices("test", accents, speakers) == ["en-gb-x-rp+m4", "en-gb-x-rp+f3", "en-gb-x-rp+belinda"]
    assert voices("test", accents, speakers, most=1) == ["en-gb-x-rp+m4"]
    assert voices("validation", accents, speakers) == []


@needs_espeak
def test_every_voice_is_installed_and_speaks_as_no_other_does() -> None:
    found = installed()
    for split in SPEAKERS:
        assert set(ACCENTS[split]) <= found.accents
        assert set(SPEAKERS[split]) <= found.variants
    chosen = [f"en-us+{speakers[0]}" for speakers in SPEAKERS.values()] + ["en-gb+m1", "en-us+no_such_voice"]
    sounds = [sound.tobytes() for sound in synthesise([Utterance(voice, "seven") for voice in chosen])]
    assert len(set(sounds)) == len(sounds)
    assert "no_such_voice" not in found.variants


@needs_espeak
def test_the_same_words_are_the_same_bits_and_speed_and_pitch_matter() -> None:
    plain = Utterance("en-us", "two")
    once, again, slow, high = synthesise([plain, plain, replace(plain, speed=120), replace(plain, pitch=80)])
    assert once.tobytes() == again.tobytes()
    assert len(slow) > 1.2 * len(once)
    assert high.tobytes() != once.tobytes()
    assert abs(int(once[0])) > 100 or abs(int(once[1])) > 100  # no silence before it


def test_silence_around_a_sound_is_cut_and_silence_alone_is_nothing() -> None:
    assert trimmed(np.array([0, 0.2, 0, 0.3, 0], np.float32)).tolist() == pytest.approx([0.2, 0, 0.3])
    assert len(trimmed(np.zeros(5, np.float32))) == len(trimmed(np.zeros(0, np.float32))) == 0


def test_without_espeak_one_sentence_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak.shutil, "which", lambda _: None)
    with pytest.raises(DataError, match=r"which is not on this machine; install it with: apt-get install espeak") as p:
        synthesise([Utterance("en-us", "one")])
    assert p.value.exit_code == 4
    assert str(p.value).count(". ") == 0


def test_a_program_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = shutil.which("false")
    monkeypatch.setattr(espeak.shutil, "which", lambda _: failing)
    with pytest.raises(DataError, match=r"espeak-ng -v en-us .* fails"):
        synthesise([Utterance("en-us", "one")])
