"""The command line that the benchmarks of speed share."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common.machine import cores

RESULTS = Path(__file__).resolve().parents[1] / "results"
SAVED = Path(__file__).resolve().parents[1] / "saved"
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass
class Pace:
    """Shares what is left of the time among the parts that are left; a slow part leaves less for the others."""

    seconds: float
    parts: int
    _begun: float = field(default_factory=time.perf_counter)

    def shares(self) -> Iterator[float]:
        """Seconds for each of the parts, in turn."""
        for left in range(self.parts, 0, -1):
            yield max(0.0, self.seconds - (time.perf_counter() - self._begun)) / left


def numbers(text: str) -> tuple[int, ...]:
    """``"1,2"``."""
    found = tuple(sorted({int(part) for part in text.split(",") if part}))
    if not found or found[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers of threads, such as 1,2")
    return found


def fractions(text: str) -> tuple[float, ...]:
    """``"0,0.5,0.9"``."""
    found = tuple(sorted({float(part) for part in text.split(",") if part}))
    if not found or not 0 <= found[0] <= found[-1] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of sparsities below 1, such as 0,0.5,0.9")
    return found


def parser(description: str, *, minutes: float, sparsities: Sequence[float], threads: str) -> argparse.ArgumentParser:
    """With the options that all have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=numbers, default=numbers(threads), help=f"as in 1,2; {threads} if not given")
    made.add_argument("--sparsity", type=fractions, default=tuple(sparsities), help="shares of zeros, as in 0.5,0.9")
    made.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="the cases whose names contain one of these"
    )
    made.add_argument("--rivals", nargs="+", metavar="NAME", help="these and no others; isogrid is always there")
    made.add_argument("--cold", action="store_true", help="sweep the caches before each call that is timed")
    made.add_argument("--quick", action="store_true", help="a few rounds and settings, to see that it works")
    made.add_argument("--minutes", type=float, default=minutes, help=f"about how long; {minutes:g} if not given")
    made.add_argument("--save", action="store_true", help="also write the results where git tracks them")
    return made


def quiet() -> None:
    """Exporters and compilers have much to say that is no news here."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def chosen(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """Those of the names that contain one of the texts; all if there is none.

    Raises:
        SystemExit: none does.
    """
    found = [name for name in names if not only or any(text.lower() in name.lower() for text in only)]
    if not found:
        raise SystemExit(f"No case contains {' or '.join(map(repr, only))}; there are:\n  " + "\n  ".join(names))
    return found


def usable_threads(wanted: Sequence[int]) -> tuple[int, ...]:
    """Those that this machine has the processors for; at least one thread."""
    available = cores()
    return tuple(n for n in wanted if n <= available) or (1,)


def known(wanted: Sequence[str] | None, there: Sequence[str]) -> tuple[str, ...]:
    """The rivals asked for, all if none are.

    Raises:
        SystemExit: one is unknown.
    """
    for name in wanted or ():
        if name not in there:
            raise SystemExit(f"Unknown rival {name!r}; there are {', '.join(there)}.")
    return tuple(there if wanted is None else wanted)
