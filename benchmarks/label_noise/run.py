"""What wrong labels do to dense and to sparse models, and how many of them `isogrid check` finds.

    python benchmarks/label_noise/run.py measure --seeds 0,1,2
    python benchmarks/label_noise/run.py table

LeNet-300-100 on Fashion-MNIST, 10 epochs, gradual magnitude pruning.  A share of the training labels is replaced by
another class, drawn at random; validation and test labels are left as they are.  Results are kept in
docs/results/label-noise.jsonl, a line a training; what is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from benchmarks.methods.plan import Setting
from benchmarks.methods.training import trained
from isogrid.masks import count_zeros
from isogrid.quality import check
from isogrid.tasks import Split
from isogrid.tasks.fashion_mnist import FashionMNIST

BOOK = Path(__file__).resolve().parents[2] / "docs" / "results" / "label-noise.jsonl"
NOISE, SPARSITIES, EPOCHS = (0.0, 0.1, 0.3), (0.0, 0.9, 0.98), 10


class NoisyLabels(FashionMNIST):
    """Fashion-MNIST with a share of its training labels wrong."""

    def __init__(self, share: float) -> None:
        self.clean = super().data("train")[1]
        generator = torch.Generator().manual_seed(7)
        self.wrong = torch.rand(len(self.clean), generator=generator) < share
        other = torch.randint(1, 10, (len(self.clean),), generator=generator)
        self.labels = torch.where(self.wrong, (self.clean + other) % 10, self.clean)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        inputs, labels = super().data(split)
        return inputs, self.labels if split == "train" else labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "table"])
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "table":
        print(_table())
        return
    for seed in map(int, given.seeds.split(",")):
        for share in NOISE:
            task = NoisyLabels(share)
            for sparsity in SPARSITIES:
                if not _rows(noise=share, goal=sparsity, seed=seed):
                    _add({"noise": share, "goal": sparsity, "seed": seed, **_measure(task, sparsity, seed)})


def _measure(task: NoisyLabels, sparsity: float, seed: int) -> dict[str, Any]:
    setting = Setting("gradual" if sparsity else "dense", lr=0.1, weight_decay=1e-4)
    model = trained(task, setting, sparsity, EPOCHS, seed)
    with torch.no_grad():
        inputs, labels = task.data("train")
        told = torch.cat([model(part).argmax(dim=1) for part in torch.split(inputs, 2048)])
        wrong = task.wrong
        return {
            "test": task.evaluate(model, "test").value,
            "sparsity": count_zeros(model)["sparsity"],
            "remembered": float((told == labels)[wrong].float().mean()) if wrong.any() else None,
            "seen through": float((told == task.clean)[wrong].float().mean()) if wrong.any() else None,
        }


def _rows(**wanted: Any) -> list[dict[str, Any]]:
    if not BOOK.is_file():
        return []
    rows = [json.loads(line) for line in BOOK.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _add(row: dict[str, Any]) -> None:
    with BOOK.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def _table() -> str:
    """Markdown: test accuracy, and what became of the wrong labels, mean and spread over the seeds."""
    heading = (
        "| wrong labels | " + " | ".join(f"{100 * goal:g} % zeros" for goal in SPARSITIES) + " | surely, doubtful |"
    )
    lines = [heading, "|---" * (len(SPARSITIES) + 2) + "|"]
    for share in NOISE:
        found = next(one for one in check(NoisyLabels(share)).findings if one.check == "labels").numbers
        cells = [_cell(_rows(noise=share, goal=goal)) for goal in SPARSITIES]
        told = f"{100 * found['surely wrong']:.1f} %, {100 * found['doubtful']:.1f} %"
        lines.append(f"| {100 * share:g} % | " + " | ".join(cells) + f" | {told} |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    values = [100 * row["test"] for row in rows]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    kept = [100 * row["remembered"] for row in rows if row["remembered"] is not None]
    return f"{statistics.mean(values):.2f}{spread}" + (f", remembers {statistics.mean(kept):.0f} %" if kept else "")


if __name__ == "__main__":
    main()
