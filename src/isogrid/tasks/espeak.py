"""Speech from text by espeak-ng, a synthesiser of formants that has many small voices."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import DataError
from isogrid.tasks.mel import RATE
from isogrid.tasks.sound import resample
from isogrid.tasks.wav import read_wav

_SECONDS = 30.0
"""The most that one utterance may take; it takes some hundredths of a second."""


@dataclass(frozen=True)
class Utterance:
    """What is said, and how.

    Attributes:
        voice: an accent, ``+``, a variant: ``"en-us+f2"``.
        text: the words.
        speed: words a minute, 175 being espeak-ng's own.
        pitch: from 0 to 99, 50 being the voice's own.
    """

    voice: str
    text: str
    speed: int = 175
    pitch: int = 50


@dataclass(frozen=True)
class Installed:
    """What this machine's espeak-ng is and has."""

    version: str
    accents: frozenset[str]
    variants: frozenset[str]


@cache
def installed() -> Installed:
    """The version and the voices of espeak-ng; an unknown voice would silently be spoken by another.

    Raises:
        DataError: it is not installed, or does not run.
    """
    return Installed(
        version=" ".join(_run("--version").decode(errors="replace").split()[:5]),
        accents=frozenset(row.split()[1] for row in _rows("en")),
        variants=frozenset(found[1] for row in _rows("variant") if (found := re.search(r"!v/(\S+)\s*(?:\(.*)?$", row))),
    )


def synthesise(utterances: Sequence[Utterance]) -> list[NDArray[np.int16]]:
    """The sounds, 8,000 samples a second, without the silence around them; the same bits on every run.

    As many are made at a time as there are processors.

    Raises:
        DataError: espeak-ng is not installed, or does not speak one of them.

    >>> sound, = synthesise([Utterance("en-us+f2", "seven")])                        # doctest: +SKIP
    >>> 0.2 < len(sound) / 8000 < 1                                                  # doctest: +SKIP
    True
    """
    _program()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(_spoken, utterances))


def trimmed(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """What lies between the first and the last sample that is louder than a hundredth of the loudest one.

    >>> trimmed(np.array([0, 0.001, 0.5, 0, 1, 0.005], np.float32)).tolist()
    [0.5, 0.0, 1.0]
    """
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=0))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def _spoken(what: Utterance) -> NDArray[np.int16]:
    raw = _run("-v", what.voice, "-s", str(what.speed), "-p", str(what.pitch), "--stdout", what.text)
    samples, rate = read_wav(raw, f"espeak-ng's {what.text!r} in the voice {what.voice}")
    sound = trimmed(resample(samples, rate, RATE))
    if not len(sound):
        raise DataError(f"espeak-ng's {what.text!r} in the voice {what.voice} is silent; another release may speak.")
    return np.round(sound / max(1.0, float(np.abs(sound).max())) * 32767).astype(np.int16)


def _rows(kind: str) -> list[str]:
    """The table of voices of a language, without its head."""
    return _run(f"--voices={kind}").decode(errors="replace").splitlines()[1:]


def _program() -> str:
    program = shutil.which("espeak-ng")
    if program is None:
        raise DataError(
            "The spoken digits are made by espeak-ng, which is not on this machine; install it with: apt-get install "
            "espeak-ng."
        )
    return program


def _run(*arguments: str) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603 - found on the path, and no shell
            [_program(), *arguments], capture_output=True, timeout=_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as problem:
        called = " ".join(arguments)
        raise DataError(f"espeak-ng {called} fails ({problem}); release 1.50 or newer is needed.") from None
    return done.stdout
