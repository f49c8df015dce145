"""What it costs to say which weights are zero.

For a random mask of one million weights: bytes a nonzero, and nanoseconds a nonzero to write and to read, of the two
codecs of sparse files and of what is usually done instead.  "bound" is the entropy of the mask: no code that takes
every weight by itself can need less.
"""

from __future__ import annotations

import argparse
import math
import time
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from isogrid import _native

SIZE = 1_000_000
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)

Positions = NDArray[np.int64]
Encode = Callable[[Positions], bytes]
Decode = Callable[[bytes, int], Positions]


def packed_bits(positions: Positions) -> bytes:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[positions] = True
    return np.packbits(mask).tobytes()


RIVALS: dict[str, tuple[Encode, Decode]] = {
    "rice (ours)": (
        lambda positions: _native.rice_encode(positions, SIZE),
        lambda data, count: _native.rice_decode(data, count, SIZE),
    ),
    "bitmap (ours)": (
        lambda positions: _native.bitmap_encode(positions, SIZE),
        lambda data, count: _native.bitmap_decode(data, count, SIZE),
    ),
    "zlib of a bitmap": (
        lambda positions: zlib.compress(packed_bits(positions), 9),
        lambda data, _: np.flatnonzero(np.unpackbits(np.frombuffer(zlib.decompress(data), np.uint8), count=SIZE)),
    ),
    "int32 indices": (
        lambda positions: positions.astype(np.int32).tobytes(),
        lambda data, _: np.frombuffer(data, np.int32).astype(np.int64),
    ),
}


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """The shortest of `repeats` runs: what the machine can do when nothing else disturbs it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats

    print(f"{'sparsity':>8}  {'code':<16}  {'bytes/nonzero':>13}  {'write ns':>8}  {'read ns':>8}")
    for sparsity in SPARSITIES:
        rng = np.random.default_rng(0)
        positions = np.sort(rng.choice(SIZE, round(SIZE * (1 - sparsity)), replace=False))
        count = len(positions)
        entropy = -(sparsity * math.log2(sparsity) + (1 - sparsity) * math.log2(1 - sparsity))
        print(f"{sparsity:8.2f}  {'bound':<16}  {SIZE * entropy / 8 / count:13.3f}")
        for name, (encode, decode) in RIVALS.items():
            data = encode(positions)
            if not np.array_equal(decode(data, count), positions):
                raise SystemExit(f"{name} does not give back what it was given.")
            write = best_seconds(lambda encode=encode, positions=positions: encode(positions), repeats)
            read = best_seconds(lambda decode=decode, data=data, count=count: decode(data, count), repeats)
            nanoseconds = [1e9 * seconds / count for seconds in (write, read)]
            print(f"{'':8}  {name:<16}  {len(data) / count:13.3f}  {nanoseconds[0]:8.2f}  {nanoseconds[1]:8.2f}")


if __name__ == "__main__":
    main()
