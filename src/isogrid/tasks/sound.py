"""What rooms, distances and microphones do to a sound: resampling, echoes, noise, loudness."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


def resample(samples: Samples, before: int, after: int) -> Samples:
    """A sound at another rate: its spectrum, cut or continued with noughts.

    Args:
        samples: ``[n]``.
        before, after: rates, whole numbers in the same unit.

    Returns:
        ``[ceil(n * after / before)]``, float32.

    >>> slow = np.sin(2 * np.pi * 5 * np.arange(100) / 100).astype(np.float32)
    >>> fast = resample(slow, 100, 200)
    >>> len(fast), bool(np.allclose(fast[::2], slow, atol=1e-5))
    (200, True)
    """
    if before == after or not len(samples):
        return samples
    up, down = after // math.gcd(before, after), before // math.gcd(before, after)
    # A length that the rates divide: exact, and made of small primes, which a Fourier transform is quick with.
    steps = math.ceil(len(samples) / down)
    spectrum = np.fft.rfft(samples, steps * down)
    longer = np.fft.irfft(spectrum, steps * up) * (up / down)
    return longer[: math.ceil(len(samples) * up / down)].astype(np.float32)


def spoken_elsewhere(samples: Samples, rate: int, random: np.random.Generator) -> Samples:
    """The same sound from another mouth, in another room, with a noise in it, louder or softer.

    In order, each drawn from `random`:

    1. resampled by 0.87 to 1.15: a longer or shorter vocal tract (Ko et al. 2015, Audio augmentation for speech
       recognition, Interspeech);
    2. up to 0.15 s of silence before and after;
    3. with one half's chance, a room: noise that decays by 60 dB in 0.1 to 0.5 s, after the direct sound (Moorer 1979,
       About this reverberation business, Computer Music Journal 3:2), 3 to 15 dB below it;
    4. noise of a colour between white and red (power as 1/f^c with c from 0 to 2), 8 to 40 dB below the sound;
    5. a tilt of up to 3 dB an octave, as microphones and lines have;
    6. a peak between 0.05 and 0.9.

    >>> sound = np.sin(np.arange(4000) / 9).astype(np.float32)
    >>> heard = spoken_elsewhere(sound, 8000, np.random.default_rng(0))
    >>> heard.dtype, bool(0.05 <= abs(heard).max() <= 0.9)
    (dtype('float32'), True)
    """
    sound = resample(samples, 128, int(random.integers(111, 148)))
    before, after = random.integers(0, int(0.15 * rate), 2)
    # Up to a length that a Fourier transform is quick with.
    sound = np.pad(sound, (before, after + -(len(sound) + before + after) % 128))
    if random.random() < 0.5:
        sound = _in_room(sound, rate, random)
    power = float(np.mean(sound.astype(np.float64) ** 2))
    noise = _coloured(len(sound), random.uniform(0, 2), random)
    sound = sound + noise * np.sqrt(power / 10 ** (random.uniform(8, 40) / 10))
    sound = _tilted(sound, random.uniform(-3, 3))
    peak = np.exp(random.uniform(np.log(0.05), np.log(0.9)))
    heard: Samples = (sound * (peak / max(float(np.abs(sound).max()), 1e-9))).astype(np.float32)
    return heard


def _in_room(sound: NDArray[np.floating], rate: int, random: np.random.Generator) -> NDArray[np.floating]:
    seconds, below = random.uniform(0.1, 0.5), random.uniform(3, 15)
    steps = np.arange(1, int(seconds * rate))
    echo = random.standard_normal(len(steps)) * 10 ** (-3 * steps / (seconds * rate))
    response = np.concatenate([[1.0], echo * np.sqrt(10 ** (-below / 10) / np.sum(echo**2))])
    size = 1 << (len(sound) + len(response) - 2).bit_length()
    heard: NDArray[np.float64] = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)
    return heard[: len(sound)]


def _coloured(length: int, colour: float, random: np.random.Generator) -> NDArray[np.floating]:
    """Noise of mean power 1 that falls off as ``1 / f^colour``."""
    spectrum = np.fft.rfft(random.standard_normal(length))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** (-colour / 2)
    noise: NDArray[np.float64] = np.fft.irfft(spectrum, length)
    noise /= np.sqrt(np.mean(noise**2))
    return noise


def _tilted(sound: NDArray[np.floating], decibels: float) -> NDArray[np.floating]:
    """Higher frequencies louder by so many decibels an octave."""
    spectrum = np.fft.rfft(sound)
    octaves = np.log2(np.maximum(np.arange(len(spectrum)), 1.0) / len(spectrum))
    return np.fft.irfft(spectrum * 10 ** (decibels * octaves / 20), len(sound))
