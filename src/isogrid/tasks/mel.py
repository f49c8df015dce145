"""Log-mel features: how loud a sound is, in bands as wide as the ear's, frame by frame."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RATE = 8000
"""Samples a second: that of telephones."""
WINDOW, HOP = 256, 128
"""Samples that one frame looks at (32 ms), and from one frame to the next (16 ms)."""
BANDS = 40
LOWEST, HIGHEST = 60.0, 3800.0
"""Hertz at which the first band begins and the last one ends."""
_FLOOR = 1e-6
"""Added to each band's power, so that silence has a logarithm."""


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-mel features of a sound of 8,000 samples a second.

    Each frame is a Hann window of 256 samples; its power spectrum is summed in 40 triangular bands, and the logarithm
    taken: ``log(1e-6 + sum_k triangle[b, k] * |DFT(hann * frame)[k]|^2)``.  Nothing looks at other frames, so a live
    sound gives the same numbers one frame at a time.  A sound shorter than one window is followed by silence; what is
    left after the last whole window is not used.

    Args:
        samples: ``[n]``, from -1 to 1.

    Returns:
        ``[frames, 40]``, float32, with ``frames = 1 + max(0, n - 256) // 128``.

    >>> log_mel(np.zeros(1000, np.float32)).shape
    (6, 40)
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)
    >>> band = int(log_mel(tone).mean(axis=0).argmax())
    >>> bool(triangles()[band, 1000 * 256 // 8000] > 0)
    True
    """
    sound = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])) ** 2
    return np.log(_FLOOR + power @ triangles().T).astype(np.float32)


@lru_cache(maxsize=1)
def triangles() -> NDArray[np.float64]:
    """What each band takes of each frequency, ``[40, 129]``: triangles that are evenly spaced in mel.

    ``mel = 2595 log10(1 + hertz / 700)`` (O'Shaughnessy 1987, Speech Communication, page 150); a triangle rises from
    its neighbour's middle to 1 at its own and falls to nought at the next one's (Davis and Mermelstein 1980,
    doi:10.1109/TASSP.1980.1163420).  The lowest bands are narrower than what the window tells apart, so frequencies
    between its 129 are interpolated: each triangle is averaged over the width of one of them.

    >>> triangles().shape, bool((triangles().sum(axis=1) > 0).all())
    ((40, 129), True)
    """
    ends = np.array([LOWEST, HIGHEST])
    low, high = 2595 * np.log10(1 + ends / 700)
    corners = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    width, fine = RATE / WINDOW, 64
    hertz = (np.arange((WINDOW // 2 + 1) * fine) + 0.5) / fine * width - width / 2
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    heights = np.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle)).clip(0)
    shares: NDArray[np.float64] = heights.reshape(BANDS, -1, fine).mean(axis=2)
    return shares
