"""Log-mel features beside a plain computation of the formula."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest

from isogrid.tasks.mel import BANDS, HIGHEST, HOP, LOWEST, RATE, WINDOW, log_mel, triangles


def mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def plain_frame(samples: list[float]) -> list[float]:
    """One frame, sum by sum: Hann window, Fourier sum, triangles averaged over 64 places around each frequency."""
    windowed = [x * (0.5 - 0.5 * math.cos(2 * math.pi * n / WINDOW)) for n, x in enumerate(samples)]
    power = []
    for k in range(WINDOW // 2 + 1):
        total = sum(x * cmath.exp(-2j * math.pi * k * n / WINDOW) for n, x in enumerate(windowed))
        power.append(abs(total) ** 2)
    step = (mel(HIGHEST) - mel(LOWEST)) / (BANDS + 1)
    corners = [700 * (10 ** ((mel(LOWEST) + i * step) / 2595) - 1) for i in range(BANDS + 2)]
    bands = []
    for left, middle, right in zip(corners, corners[1:], corners[2:], strict=False):
        heard = 0.0
        for k, value in enumerate(power):
            places = [(k - 0.5 + (i + 0.5) / 64) * RATE / WINDOW for i in range(64)]
            heights = [max(0.0, min((f - left) / (middle - left), (right - f) / (right - middle))) for f in places]
            heard += value * sum(heights) / 64
        bands.append(math.log(1e-6 + heard))
    return bands


def test_features_are_those_of_the_formula() -> None:
    sound = (0.3 * np.random.default_rng(1).standard_normal(WINDOW + HOP)).astype(np.float32)
    found = log_mel(sound)
    assert found.shape == (2, BANDS)
    for frame, start in zip(found, (0, HOP), strict=True):
        np.testing.assert_allclose(frame, plain_frame(sound[start : start + WINDOW].tolist()), rtol=1e-5)


@pytest.mark.parametrize(("length", "frames"), [(1, 1), (256, 1), (383, 1), (384, 2), (8000, 61)])
def test_as_many_frames_as_whole_windows(length: int, frames: int) -> None:
    assert log_mel(np.ones(length, np.float32)).shape == (frames, BANDS)


def test_a_short_sound_is_followed_by_silence() -> None:
    short = np.ones(100, np.float32)
    assert np.array_equal(log_mel(short), log_mel(np.pad(short, (0, WINDOW - 100))))


def test_a_live_sound_gives_the_same_frames_one_by_one() -> None:
    sound = np.random.default_rng(2).standard_normal(2000).astype(np.float32)
    whole = log_mel(sound)
    for index, frame in enumerate(whole):
        (alone,) = log_mel(sound[index * HOP : index * HOP + WINDOW])
        np.testing.assert_allclose(alone, frame, rtol=1e-6)


def test_silence_is_finite_and_every_band_hears_something() -> None:
    assert np.allclose(log_mel(np.zeros(256, np.float32)), math.log(1e-6))
    heard = triangles()
    assert (heard.max(axis=1) > 0.2).all()
    assert (heard[:, : int(LOWEST * WINDOW / RATE)] == 0).all()
    assert (heard[:, math.ceil(HIGHEST * WINDOW / RATE) + 1 :] == 0).all()
