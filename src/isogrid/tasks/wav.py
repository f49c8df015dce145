"""WAV files: uncompressed sound in RIFF chunks (Microsoft and IBM 1991, Multimedia Programming Interface 1.0)."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import DataError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ACCEPTED = "accepted are WAV files of 8, 16, 24 or 32-bit PCM or 32-bit float"


def read_wav(source: str | Path | bytes, name: str = "the sound") -> tuple[NDArray[np.float32], int]:
    """The samples of a WAV file, and how many there are a second.

    Several channels are averaged.  Programs that write to a pipe do not know the length when they write the header, so
    a data chunk that claims more than the file holds ends where the file ends.

    Args:
        source: a file, or the bytes of one.
        name: what errors call the bytes.

    Returns:
        Samples ``[n]`` from -1 to 1, float32, and the rate in hertz.

    Raises:
        DataError: the file is missing, damaged, empty, or holds compressed sound.

    >>> import struct
    >>> sound = struct.pack("<4h", 0, 16384, -32768, 0)
    >>> head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 44, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    >>> read_wav(head + struct.pack("<4sI", b"data", 8) + sound)
    (array([ 0. ,  0.5, -1. ,  0. ], dtype=float32), 8000)
    """
    if not isinstance(source, bytes):
        name = str(source)
        try:
            source = Path(source).read_bytes()
        except OSError as problem:
            raise DataError(f"{name} cannot be read ({problem.strerror}); {_ACCEPTED}.") from None
    if len(source) < 12 or source[:4] != b"RIFF" or source[8:12] != b"WAVE":
        raise DataError(f"{name} is no WAV file: it begins with {source[:4].hex() or 'nothing'}; {_ACCEPTED}.")
    chunks = _chunks(source)
    header, data = chunks.get(b"fmt ", b""), chunks.get(b"data", b"")
    if len(header) < 16:
        raise DataError(f"{name} does not say how its sound is stored: its fmt chunk has {len(header)} bytes, not 16.")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", header[:16])
    if kind == _EXTENSIBLE and len(header) >= 26:
        kind = struct.unpack("<H", header[24:26])[0]
    if channels < 1 or rate < 1 or (kind, bits) not in {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32)}:
        raise DataError(f"{name} holds {channels} channels of {bits} bits at {rate} Hz in format {kind}; {_ACCEPTED}.")
    whole = len(data) - len(data) % (channels * bits // 8)
    if whole == 0:
        raise DataError(f"{name} holds no sound: its data chunk has {len(data)} bytes; accepted is one sample or more.")
    samples = _samples(data[:whole], kind, bits).reshape(-1, channels).mean(axis=1).astype(np.float32)
    if not np.isfinite(samples).all():
        raise DataError(f"{name} holds samples that are not finite; accepted are numbers from -1 to 1.")
    return samples, rate


def _chunks(raw: bytes) -> dict[bytes, bytes]:
    """The first chunk of each kind; what stands after the sound is not needed."""
    found: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(raw) and b"data" not in found:
        kind, size = struct.unpack("<4sI", raw[at : at + 8])
        found.setdefault(kind, raw[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return found


def _samples(data: bytes, kind: int, bits: int) -> NDArray[np.float32]:
    if kind == _FLOAT:
        return np.frombuffer(data, "<f4").astype(np.float32)
    if bits == 8:  # the only size without a sign
        return ((np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128).astype(np.float32)
    if bits == 24:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return (padded.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return (np.frombuffer(data, f"<i{bits // 8}") / 2.0 ** (bits - 1)).astype(np.float32)
