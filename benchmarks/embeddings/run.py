"""What a training step of a sparse embedding table costs, against the number of its rows.

A table with ``sparse=True`` and SparseAdam looks up as many rows a step whatever its size.  Printed for each size, each
in a process of its own: milliseconds of a step without a sparsifier, of one with it between two topology updates, and
of the step that prunes (it passes over the table); the same step of a dense table with Adam; and bytes of memory a
weight: of what is kept, and at the peak, within the update.

    python benchmarks/embeddings/run.py [--rows 10000 100000 1000000] [--width 16] [--pattern row]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import isogrid as ig

_BATCH = 4096
"""Rows that a step looks up."""
_STEPS = 30
"""Between two topology updates."""


def resident() -> float:
    """Bytes of memory at the peak of this process so far."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def training(rows: int, width: int, method: Any, *, sparse: bool) -> Callable[[], float]:
    """A function that takes a step on random rows and gives its milliseconds."""
    torch.manual_seed(0)
    table = nn.Embedding(rows, width, sparse=sparse)
    kind: Any = torch.optim.SparseAdam if sparse else torch.optim.Adam
    optimizer = kind(table.parameters(), lr=1e-2)
    if method is not None:
        ig.Sparsifier(table, method, optimizer=optimizer, total_steps=100 * _STEPS, targets="weight")

    def step() -> float:
        picked = torch.randint(0, rows, (_BATCH,))
        begun = time.perf_counter()
        (table(picked) - 1).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return 1000 * (time.perf_counter() - begun)

    return step


def measure(rows: int, width: int, pattern: str) -> dict[str, float]:
    """The line of one size; run in a process of its own, as the peak of memory is the process's."""
    torch.set_num_threads(1)
    weights = rows * width
    for _ in range(2):
        training(
            _BATCH, width, ig.Gradual(sparsity=0.9, pattern=pattern, delta_t=1), sparse=True
        )()  # what libraries keep
    before = resident()
    step = training(rows, width, ig.Gradual(sparsity=0.9, pattern=pattern, delta_t=_STEPS), sparse=True)
    times = [step() for _ in range(_STEPS - 1)]
    found = {"sparse": statistics.median(times[5:]), "kept": (resident() - before) / weights}
    found |= {"update": step(), "peak": (resident() - before) / weights}
    for name, sparse in (("plain", True), ("dense", False)):
        step = training(rows, width, None, sparse=sparse)
        found[name] = statistics.median([step() for _ in range(_STEPS)][5:])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--pattern", default="unstructured", help="row, say")
    parser.add_argument("--one", action="store_true", help="measure one size here and print it as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.rows[0], options.width, options.pattern)))
        return
    print(f"{_BATCH} rows a step, width {options.width}, {options.pattern}, one thread")
    print(
        f"{'rows':>12} {'plain ms':>9} {'sparse ms':>10} {'update ms':>10} {'dense ms':>9} {'B kept':>7} {'B peak':>7}"
    )
    for rows in options.rows:
        command = [sys.executable, __file__, "--one", "--rows", str(rows), "--width", str(options.width)]
        command += ["--pattern", options.pattern]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        print(
            f"{rows:12,} {found['plain']:9.2f} {found['sparse']:10.2f} {found['update']:10.1f} {found['dense']:9.2f} "
            f"{found['kept']:7.1f} {found['peak']:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
