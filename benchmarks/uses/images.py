"""Images: the dense model and the balance point of one or more runs, on the test images.

    isogrid optimize images --setting full --max-drop 0.3pt --seed 0 --out runs/images-0    # and seeds 1, 2
    python benchmarks/uses/images.py runs/images-0 runs/images-1 runs/images-2

Prints each run and their mean.  Times are those that the runs measured themselves, packed against dense in ONNX
Runtime, one sample a call; they mean something only where the machine was quiet.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import output
from rich.table import Table

from isogrid.report.data import ReportData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="what isogrid optimize images wrote")
    given = parser.parse_args()
    table = Table("run", "dense", "balance point", "drop, pt", "sparsity", "bytes", "smaller", "packed faster")
    rows = [_row(path) for path in given.runs]
    for path, row in zip(given.runs, rows, strict=True):
        table.add_row(path.name, *_cells(row))
    if len(rows) > 1:
        table.add_row("mean", *_cells([statistics.mean(column) for column in zip(*rows, strict=True)]))
    output.console().print(table)


def _row(path: Path) -> list[float]:
    """Dense and sparse accuracy in per cent, sparsity, bytes of both, and how many times faster the packed file is."""
    found = ReportData.from_json((path / "report.json").read_bytes())
    dense, balance = found.dense, found.balance
    speed = found.speed.rows if found.speed else []
    faster = [row.times for row in speed if row.model == "packed" and row.batch == 1]
    accuracies = [100 * (model.test_metric or 0.0) for model in (dense, balance)]
    return [*accuracies, 100 * balance.sparsity, dense.bytes, balance.bytes, faster[0] if faster else 1.0]


def _cells(row: list[float]) -> list[str]:
    dense, sparse, sparsity, before, after, faster = row
    return [
        f"{dense:.2f} %", f"{sparse:.2f} %", f"{dense - sparse:+.2f}", f"{sparsity:.1f} %",
        f"{before:,.0f} -> {after:,.0f}", f"{before / after:.1f}x", f"{faster:.2f}x",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
