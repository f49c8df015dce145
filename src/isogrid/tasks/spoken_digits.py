"""Spoken digits: synthetic voices to train on, to choose with and to confirm, and human recordings beside them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isogrid.errors import DataError, RunError
from isogrid.formats.files import write_atomically
from isogrid.tasks.cache import cache_folder
from isogrid.tasks.espeak import Utterance, installed, synthesise, trimmed
from isogrid.tasks.mel import BANDS, RATE, log_mel
from isogrid.tasks.sound import resample, spoken_elsewhere
from isogrid.tasks.task import Split
from isogrid.tasks.voices import voices
from isogrid.tasks.wav import read_wav

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DEBIAN = "/usr/share/asterisk/sounds/en_US_f_Allison/digits"
_MEAN, _DEVIATION = -5.0, 4.0
"""About those of the training features.  Round numbers, the same for all bands and settings: who builds a recogniser on
this must be able to write them down."""
_FORM = 1
"""Changed whenever the same utterances would be kept in another form."""


@dataclass(frozen=True)
class Spoken:
    """Utterances as a model takes them.

    Attributes:
        features: ``[n, frames, 40]`` float32, standardised; noughts after each one's end.
        lengths: ``[n]`` float32, how many frames of each are its own; whole numbers, which divide sums over frames.
        labels: ``[n]`` int64, the digit.
        voices: who speaks, ``n`` names.
    """

    features: Tensor
    lengths: Tensor
    labels: Tensor
    voices: tuple[str, ...]


@dataclass(frozen=True)
class Amounts:
    """How much is made of each split.

    Attributes:
        speakers: of train, and of each held-out split; None takes all there are.
        takes: utterances of each digit by each voice, in train and in each held-out split, each at a speed and a
            pitch of its own.
        copies: of each training utterance, each in another room, with another noise.
    """

    speakers: tuple[int | None, int | None]
    takes: tuple[int, int]
    copies: int


def spoken_digits(amounts: Amounts) -> dict[Split, Spoken]:
    """The three splits.  No accent and no speaker of one is heard in another (`isogrid.tasks.voices`).

    What espeak-ng says is kept in `isogrid.tasks.cache.cache_folder`, in one file for its release and these amounts,
    and read from there the next time.  Rooms and noises are added anew each time, always the same ones.

    Raises:
        DataError: espeak-ng is not installed, or has none of the voices of a split.
    """
    return _splits(amounts)


def human_digits() -> Spoken:
    """Ten recordings of one woman, a digit each, in the features of `spoken_digits`.

    Nobody trains on them or chooses by them.  They are in Debian's package ``asterisk-core-sounds-en-wav``; the
    environment variable ``ISOGRID_SPOKEN_DIGITS`` names another folder that holds ``0.wav`` to ``9.wav``.

    Raises:
        DataError: they are not there, or one is damaged.
    """
    folder = Path(os.environ.get("ISOGRID_SPOKEN_DIGITS") or _DEBIAN)
    if not folder.is_dir():
        raise DataError(
            f"The recordings of spoken digits are not in {folder}; install them with: apt-get install "
            "asterisk-core-sounds-en-wav, or name a folder that holds 0.wav to 9.wav in the environment variable "
            "ISOGRID_SPOKEN_DIGITS."
        )
    sounds = []
    for digit in range(len(WORDS)):
        samples, rate = read_wav(folder / f"{digit}.wav")
        sounds.append(log_mel(trimmed(resample(samples, rate, RATE))))
    return gathered(sounds, list(range(len(WORDS))), ["human"] * len(WORDS))


def gathered(features: list[NDArray[np.float32]], labels: list[int], speakers: list[str]) -> Spoken:
    """Utterances of different lengths in one table, standardised.

    Args:
        features: for each its ``[frames, 40]`` (`isogrid.tasks.mel.log_mel`).
        labels: for each its class.
        speakers: for each who speaks.

    >>> heard = gathered([np.zeros((7, 40), np.float32), np.zeros((4, 40), np.float32)], [0, 1], ["me", "you"])
    >>> heard.features.shape, heard.lengths.tolist()
    (torch.Size([2, 7, 40]), [7.0, 4.0])
    """
    lengths = [len(one) for one in features]
    table = np.zeros((len(features), max(lengths), BANDS), np.float32)
    for row, one in zip(table, features, strict=True):
        row[: len(one)] = (one - _MEAN) / _DEVIATION
    frames = torch.tensor(lengths, dtype=torch.float32)
    return Spoken(torch.from_numpy(table), frames, torch.tensor(labels), tuple(speakers))


def script(split: Split, names: list[str], takes: int) -> list[Utterance]:
    """Who says what and how: `takes` times each digit in each voice.

    Speed (120 to 220 words a minute) and pitch (20 to 80) are drawn for each from its own name, so that fewer voices or
    takes are a part of more.

    >>> [said.text for said in script("train", ["en-us+m1"], 1)][:3]
    ['zero', 'one', 'two']
    """
    said = []
    for name in names:
        for word in WORDS:
            for take in range(takes):
                random = _random(f"{split} {name} {word} {take}")
                speed, pitch = random.integers(120, 221), random.integers(20, 81)
                said.append(Utterance(name, word, int(speed), int(pitch)))
    return said


@lru_cache(maxsize=2)
def _splits(amounts: Amounts) -> dict[Split, Spoken]:
    scripts = {split: _script(split, amounts) for split in get_args(Split)}
    sounds = iter(_kept([said for script in scripts.values() for said in script]))
    made: dict[Split, Spoken] = {}
    for split, said in scripts.items():
        copies = amounts.copies if split == "train" else 1
        features, labels, speakers = [], [], []
        for utterance in said:
            sound = next(sounds).astype(np.float32) / np.float32(32768)
            for copy in range(copies):
                heard = spoken_elsewhere(sound, RATE, _random(f"{copy} {utterance}"))
                features.append(log_mel(heard))
                labels.append(WORDS.index(utterance.text))
                speakers.append(utterance.voice)
        made[split] = gathered(features, labels, speakers)
    return made


def _script(split: Split, amounts: Amounts) -> list[Utterance]:
    held_out = split != "train"
    found = installed()
    names = voices(split, set(found.accents), set(found.variants), amounts.speakers[held_out])
    if not names:
        raise DataError(f"{found.version} has no voice of the {split} split; release 1.51 has them all.")
    return script(split, names, amounts.takes[held_out])


def _kept(said: list[Utterance]) -> list[NDArray[np.int16]]:
    """The sounds of these utterances, from the cache or else made and put there."""
    key = hashlib.sha256(f"{_FORM} {installed().version} {said}".encode()).hexdigest()[:16]
    path = cache_folder() / f"spoken-digits-{key}.npz"
    sounds = _read(path, len(said))
    if sounds is None:
        print(
            f"espeak-ng says {len(said):,} digits, which are kept in {path} (ISOGRID_CACHE names another folder).",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        sounds = synthesise(said)
        data = io.BytesIO()
        ends = np.cumsum([len(sound) for sound in sounds])
        np.savez(data, allow_pickle=False, sounds=np.concatenate(sounds), ends=ends)
        # Where nothing can be written they are made anew each time.
        with contextlib.suppress(OSError, RunError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data.getvalue())
    return sounds


def _read(path: Path, count: int) -> list[NDArray[np.int16]] | None:
    """What the cache holds; None where it holds nothing whole."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            sounds, ends = file["sounds"], file["ends"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    if len(ends) != count or sounds.dtype != np.int16 or ends[-1] != len(sounds):
        return None
    return np.split(sounds, ends[:-1])


def _random(text: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(text.encode()))
