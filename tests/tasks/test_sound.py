"""Resampling and what rooms and microphones do."""

from __future__ import annotations

import numpy as np
import pytest

from isogrid.tasks.sound import resample, spoken_elsewhere


def tone(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize(("before", "after"), [(22050, 8000), (44100, 8000), (8000, 22050), (16000, 8000)])
def test_a_tone_stays_the_same_tone(before: int, after: int) -> None:
    found = resample(tone(440, before), before, after)
    expected = tone(440, after)
    inner = slice(after // 20, -after // 20)  # a tone that begins at once has edges
    np.testing.assert_allclose(found[: len(expected)][inner], expected[inner], atol=0.02)


def test_what_the_new_rate_cannot_hold_is_gone() -> None:
    assert np.abs(resample(tone(5000, 22050), 22050, 8000)[400:-400]).max() < 0.02


@pytest.mark.parametrize(("length", "expected"), [(0, 0), (1, 1), (441, 160), (442, 161), (1001, 364)])
def test_no_sample_is_lost(length: int, expected: int) -> None:
    assert len(resample(np.ones(length, np.float32), 22050, 8000)) == expected


def test_the_same_generator_gives_the_same_sound_and_another_another() -> None:
    sound = tone(300, 8000)
    once, again, other = (spoken_elsewhere(sound, 8000, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(once, again)
    assert not np.array_equal(once[:1000], other[:1000])


def test_sounds_stay_near_their_length_and_within_range() -> None:
    sound = tone(300, 8000)
    for seed in range(40):
        heard = spoken_elsewhere(sound, 8000, np.random.default_rng(seed))
        assert 0.86 * len(sound) <= len(heard) <= 1.16 * len(sound) + 2 * 0.15 * 8000 + 128
        assert 0.05 <= np.abs(heard).max() <= 0.9


def test_some_sounds_echo_and_all_have_noise() -> None:
    """A soft burst in silence: a room goes on for a while after it, noise for ever."""
    burst = np.pad(tone(900, 8000, 0.1) * np.hanning(800), (0, 3200)).astype(np.float32)
    echoes = 0
    for seed in range(60):
        heard = spoken_elsewhere(burst, 8000, np.random.default_rng(seed)).astype(np.float64)
        middle = int(np.convolve(heard**2, np.ones(400), "same").argmax())
        after, late = heard[middle + 600 : middle + 1000], heard[-400:]
        assert np.std(late) > 1e-6 * np.abs(heard).max()
        echoes += bool(np.std(after) > 2 * np.std(late))
    assert 10 <= echoes <= 45
