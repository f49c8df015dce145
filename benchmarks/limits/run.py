"""This machine's ceilings: multiply-adds, bytes read from each level of the memory, gathered loads from L1.

    python benchmarks/limits/run.py [--threads 1,2] [--quick] [--save]

Gathered are random floats of 16 KiB whose 2-byte indices are read in order: what a product of a sparse matrix with one
vector does for each nonzero.  Each number is the best of many short tries.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import limits
from benchmarks.common.machine import description
from benchmarks.common.options import RESULTS, SAVED, numbers, usable_threads
from benchmarks.common.output import console


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=numbers, default=(1, 2))
    parser.add_argument("--quick", action="store_true", help="shorter tries")
    parser.add_argument("--save", action="store_true", help="also write the results where git tracks them")
    options = parser.parse_args()
    out = console()
    measured = []
    for threads in usable_threads(options.threads):
        try:
            measured.append(limits.measure(threads, options.quick))
        except limits.NoLimitsError as problem:
            raise SystemExit(f"The limits cannot be measured: {problem}.") from None
    caches = ", ".join(f"{name} {size >> 10} KiB" for name, size in limits.cache_bytes().items())
    table = Table(title=f"{description()['processor']}; {caches}", title_justify="left")
    table.add_column("ceiling")
    for found in measured:
        table.add_column(f"{found.threads} thread{'s' * (found.threads > 1)}", justify="right")
    table.add_row("multiply-adds, G/s", *(f"{found.multiply_adds / 1e9:.1f}" for found in measured))
    for level in limits.LEVELS:
        table.add_row(f"read from {level}, GB/s", *(f"{found.read[level] / 1e9:.1f}" for found in measured))
    for way in measured[0].ways:
        table.add_row(f"gathered loads, {way}, G/s", *(f"{found.ways[way] / 1e9:.2f}" for found in measured))
    out.print(table)
    document = {"benchmark": "limits", "machine": description(), "limits": [found.as_json() for found in measured]}
    for folder in (RESULTS, SAVED) if options.save else (RESULTS,):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "limits.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
