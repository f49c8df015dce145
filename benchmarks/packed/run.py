"""Packed ONNX models beside ONNX Runtime on the dense model, its own int8, and OpenVINO.

    python benchmarks/packed/run.py [--only BERT] [--threads 2] [--sparsity 0.9] [--seconds 30] [--save]

Models are exported with random weights (benchmarks/models/zoo.py).  The dense file is the baseline of all rows; the
sparse ones have random masks of their own, made before the export as a user's model would be, and are packed with
`isogrid pack`; `--at` rows of the dense file are beside them, for what the command foretells.  Outputs are compared
before anything is timed, and contestants take turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import isogrid
import isogrid.runtime
from benchmarks.common import output
from benchmarks.models.zoo import MASKS, MODELS, Zoo, build
from isogrid.runtime.benchmarking.racing import DENSE, INT8, OURS, benchmark
from isogrid.runtime.benchmarking.result import Benchmark
from isogrid.runtime.session import Session

BYTES = {"fp32": 0.14, "int8": 0.07}
"""Of the packed file at 90 %, as a fraction of the dense float32 file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument(
        "--masks", choices=MASKS, default="random", help="of the sparse model (benchmarks/models/zoo.py)"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each model's race")
    parser.add_argument("--save", action="store_true", help="write docs/results/packed.json")
    given = parser.parse_args()
    out = output.console()
    found: dict[str, Any] = {}
    for name, zoo in MODELS.items():
        if given.only.lower() not in name.lower():
            continue
        out.print(f"\n{name}", markup=False)
        with tempfile.TemporaryDirectory() as folder:
            result, sizes = _race(zoo, Path(folder), given)
        result.show(out)
        found[name] = {
            **result.to_json(),
            "bytes_over_dense": sizes,
            "goals": _judge(zoo.goal, result, sizes, given.sparsity),
        }
        for goal in found[name]["goals"]:
            out.print("  {goal}: {found}".format(**goal), markup=False)
    path = Path("docs/results/packed.json" if given.save else "benchmarks/results/packed.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    out.print(f"Written: {path}", markup=False)


def _race(zoo: Zoo, folder: Path, given: argparse.Namespace) -> tuple[Benchmark, dict[str, float]]:
    files = [folder / "dense.onnx", folder / "sparse.onnx"]
    for file, sparsity in zip(files, (0.0, given.sparsity), strict=True):
        with torch.no_grad():
            one_batch = len({shape[0] for shape in zoo.shapes}) == 1
            isogrid.export(
                build(zoo.make, sparsity, given.masks if sparsity else "random"),
                file,
                zoo.inputs,
                dynamic_batch=one_batch,
            )
    dense = files[0].stat().st_size
    shapes = Session(files[0], threads=1).shapes_of(zoo.inputs)
    sizes = {}
    for values in BYTES:
        isogrid.runtime.pack(files[1], folder / "packed.onnx", values=values, shapes=shapes)
        sizes[values] = (folder / "packed.onnx").stat().st_size / dense
    batch = zoo.inputs[0].shape[0]
    raced = benchmark(
        files, at=[given.sparsity], threads=given.threads, batch=batch, shapes=shapes, seconds=given.seconds
    )
    return raced, sizes


def _judge(goal: float, result: Benchmark, sizes: dict[str, float], sparsity: float) -> list[dict[str, Any]]:
    ours = next(row for row in result.rows if row.who == OURS and not row.masked)
    assert ours.speedup is not None
    goals = []
    if sparsity == 0.9:
        goals.append({"goal": f"{goal:g}x over ONNX Runtime", "found": str(ours.speedup)})
    for row in result.rows:
        if row.who == INT8:
            goals.append(
                {"goal": "faster than ONNX Runtime int8", "found": f"{row.sample.median / ours.sample.median:.2f}x"}
            )
        if row.masked:
            off = row.sample.median / ours.sample.median - 1
            goals.append({"goal": "--at within 20 %", "found": f"{100 * off:+.1f} %"})
        if row.who == DENSE and row.file == "sparse.onnx" and row.speedup is not None:
            goals.append({"goal": "zeros alone in ONNX Runtime", "found": str(row.speedup)})
    goals += [
        {"goal": f"{values} file at most {BYTES[values]}x", "found": f"{size:.3f}x"} for values, size in sizes.items()
    ]
    return goals


if __name__ == "__main__":
    main()
