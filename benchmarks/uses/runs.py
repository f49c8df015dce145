"""Finished runs of one use: dense beside the balance point on the test split, their mean, and how fast each file is.

    isogrid optimize images --setting full --max-drop 0.3pt --seed 0 --out runs/images-0    # and seeds 1, 2
    python benchmarks/uses/runs.py runs/images-0 runs/images-1 runs/images-2 [--plot images.svg]
    python benchmarks/uses/runs.py runs/images-0 --speed [--seconds 5] [--threads 1] [--batches 1,64]

With ``--speed`` the dense model, the sparse ONNX file and the packed one of each run take turns in ONNX Runtime; the
packed answers are compared with the sparse file's first.  It takes two races of so many seconds a run, and means
something only where the machine is quiet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from benchmarks.common import equality, output
from benchmarks.uses.drawing import draw
from rich.table import Table

import isogrid as ig
from isogrid.report.data import ReportData
from isogrid.runtime import Session
from isogrid.runtime.benchmarking.contestants import in_onnxruntime
from isogrid.runtime.timing import Candidate, race, ratio
from isogrid.tasks import Task, load_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="what isogrid optimize wrote")
    parser.add_argument("--plot", type=Path, help="also draw the runs")
    parser.add_argument("--speed", action="store_true", help="race the files of each run")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a race")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", default="1,64", help="samples of a call")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    tasks = {path: type(task_of(path)).__name__ for path in given.runs}
    if len(set(tasks.values())) > 1:
        parser.error(
            f"the runs are of different tasks, {', '.join(sorted(set(tasks.values())))}; accepted are runs of one"
        )
    out = output.console()
    reports = [ReportData.from_json((path / "report.json").read_bytes()) for path in given.runs]
    out.print(accuracies(given.runs, reports))
    if given.plot is not None:
        draw([path.name for path in given.runs], reports, given.plot)
    for path in given.runs if given.speed else ():
        for batch in map(int, given.batches.split(",")):
            out.print(speeds(path, batch, given.threads, given.seconds))


def accuracies(runs: Sequence[Path], reports: Sequence[ReportData]) -> Table:
    """A row for each run, and their mean."""
    metric = reports[0].metric
    scale = 100 if metric.percent else 1
    table = Table("run", f"dense, {metric.name}", "sparse", "worse by", "sparsity", "stored as", "bytes", "smaller")
    rows = [
        [
            scale * (report.dense.test_metric or 0), scale * (report.balance.test_metric or 0),
            100 * report.balance.sparsity, report.dense.bytes, report.balance.bytes,
        ]
        for report in reports
    ]  # fmt: skip
    named = [(path.name, report.balance.precision) for path, report in zip(runs, reports, strict=True)]
    if len(rows) > 1:
        rows.append([statistics.mean(column) for column in zip(*rows, strict=True)])
        named.append(("mean", ""))
    for (name, precision), (dense, sparse, sparsity, before, after) in zip(named, rows, strict=True):
        worse = dense - sparse if metric.higher_is_better else sparse - dense
        drop = f"{worse:+.2f} pt" if metric.percent else f"{worse:+.4f} ({100 * worse / dense:+.2f} %)"
        digits = 2 if metric.percent else 4
        table.add_row(
            name, f"{dense:.{digits}f}", f"{sparse:.{digits}f}", drop, f"{sparsity:.1f} %", precision,
            f"{before:,.0f} -> {after:,.0f}", f"{before / after:.1f}x",
        )  # fmt: skip
    return table


def speeds(path: Path, batch: int, threads: int, seconds: float) -> Table:
    """The files of a run, taking turns with so many samples a call."""
    task = task_of(path)
    dense = ig.load(path / "dense.safetensors", into=task.model()).eval()
    with tempfile.TemporaryDirectory() as folder:
        files = {"dense": Path(folder, "dense.onnx"), "sparse": path / "model.onnx"}
        ig.export(dense, files["dense"], task.example(), free_axes=task.free_axes())
        if (path / "model.packed.onnx").is_file():
            files["packed"] = path / "model.packed.onnx"
        feeds = _feeds(files["dense"], task, batch)
        bound = {name: in_onnxruntime(str(file), feeds, threads) for name, file in files.items()}
        if "packed" in bound:
            equality.check(bound["packed"].outputs, bound["sparse"].outputs)
        samples = race({name: Candidate(call, threads) for name, call in bound.items()}, seconds=seconds)
    title = f"{path.name}: {batch} sample{'s' * (batch > 1)} a call, {threads} thread{'s' * (threads > 1)}"
    table = Table("ONNX Runtime runs", "milliseconds", "times faster", title=title)
    for name, sample in samples.items():
        table.add_row(name, f"{1e3 * sample.median:.3f}", str(ratio(samples["dense"], sample)))
    return table


def task_of(path: Path) -> Task:
    """The task of a run, in the run's setting."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    task = load_task(config["task"])
    return task.at(config["setting"]) if config["setting"] else task


def _feeds(model: Path, task: Task, batch: int) -> Mapping[str, Any]:
    arrays = [part.numpy() for part in task.example()]
    names = [port.name for port in Session(model, threads=1).inputs]
    return {name: array[np.arange(batch) % len(array)] for name, array in zip(names, arrays, strict=True)}


if __name__ == "__main__":
    main()
