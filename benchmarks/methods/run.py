"""Every method on the same work, with the same number of epochs: settings are chosen on validation, test confirms.

    python benchmarks/methods/run.py choose --task fashion-mnist --sparsities 0.98,0.99 --epochs 20
    python benchmarks/methods/run.py measure --task fashion-mnist --sparsities 0.98,0.99 --epochs 20 --seeds 0,1,2
    python benchmarks/methods/run.py table --task fashion-mnist --epochs 20 --plot methods.svg

`choose` trains each setting of plan.py once (seed 100, which is not among the seeds of `measure`) and looks at the
validation split alone; `measure` trains the setting that did best at that sparsity from each seed.  Results are kept in
docs/results/methods-TASK.jsonl, a line a training: what is there is not trained again, and several processes may
share the work (`--part 0/2` and `--part 1/2`).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.methods.drawing import draw
from benchmarks.methods.plan import Setting, settings_of
from benchmarks.methods.training import train
from isogrid.sparsify import methods
from isogrid.tasks import Split, Task, load_task

CHOOSING_SEED = 100
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


class Book:
    """The file of results."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.path = RESULTS / f"methods-{task}.jsonl"

    def rows(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def find(self, **wanted: Any) -> list[dict[str, Any]]:
        return [row for row in self.rows() if all(row[key] == value for key, value in wanted.items())]

    def add(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["choose", "measure", "table"])
    parser.add_argument("--task", default="fashion-mnist")
    parser.add_argument("--sparsities", default="0.9,0.95,0.98,0.99")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default="", help="names with commas; all by default")
    parser.add_argument("--chosen-at", type=float, help="measure the setting that did best at this sparsity")
    parser.add_argument("--chosen-in", type=int, help="measure the setting that did best in so many epochs")
    parser.add_argument("--plot", type=Path, help="also draw the table")
    parser.add_argument("--part", default="0/1", help="which share of the work this process does")
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = load_task(given.task)
    book = Book(task.name)
    if given.what == "table":
        print(_table(book, given.epochs))
        if given.plot is not None:
            draw(_measured(book, given.epochs), given.plot)
        return
    part, parts = map(int, given.part.split("/"))
    names = (
        given.methods.split(",")
        if given.methods
        else ["dense", "torch.prune", *(name for name in methods() if name != "keep")]
    )
    sparsities = [float(part) for part in given.sparsities.split(",")]
    work = (
        _choices(names, sparsities, task.name)
        if given.what == "choose"
        else _measurements(names, sparsities, given, book)
    )
    for index, (setting, sparsity, seed) in enumerate(work):
        if index % parts == part:
            _do(book, task, setting, sparsity, given.epochs, seed)


def _choices(names: list[str], sparsities: list[float], task: str) -> Iterator[tuple[Setting, float, int]]:
    for sparsity in sparsities:
        for name in names:
            for setting in settings_of(name, task):
                yield setting, 0.0 if name == "dense" else sparsity, CHOOSING_SEED


def _measurements(
    names: list[str], sparsities: list[float], given: argparse.Namespace, book: Book
) -> Iterator[tuple[Setting, float, int]]:
    for sparsity in sparsities:
        for name in names:
            goal = 0.0 if name == "dense" else sparsity
            at = goal if name == "dense" else given.chosen_at or goal
            setting = _chosen(book, name, at, given.chosen_in or given.epochs)
            if setting is None:
                print(f"{name} at {goal:g}: no setting was chosen yet", flush=True)
                continue
            for seed in map(int, given.seeds.split(",")):
                yield setting, goal, seed


def _chosen(book: Book, name: str, sparsity: float, epochs: int) -> Setting | None:
    settings = settings_of(name, book.task)
    if len(settings) == 1:
        return settings[0]
    planned = {setting.key: setting for setting in settings}
    tried = book.find(method=name, goal=sparsity, epochs=epochs, seed=CHOOSING_SEED)
    tried = [row for row in tried if row["setting"] in planned]
    if not tried:
        return None
    return planned[max(tried, key=lambda row: row["validation"])["setting"]]


def _do(book: Book, task: Task, setting: Setting, sparsity: float, epochs: int, seed: int) -> None:
    about = {"method": setting.method, "setting": setting.key, "goal": sparsity, "epochs": epochs, "seed": seed}
    if book.find(**about):
        return
    started = time.monotonic()
    try:
        splits: list[Split] = ["validation"] if seed == CHOOSING_SEED else ["validation", "test"]
        found: dict[str, Any] = train(task, setting, sparsity, epochs, seed, splits)
    except Exception as problem:  # one method that fails must not cost the results of the others
        print(f"{setting.key} at {sparsity:g}: {type(problem).__name__}: {problem}", flush=True)
        return
    book.add({**about, **found, "seconds": round(time.monotonic() - started, 1)})
    print(f"{setting.key} at {sparsity:g}, seed {seed}: {found}", flush=True)


def _measured(book: Book, epochs: int) -> dict[str, dict[float, list[dict[str, Any]]]]:
    """What `measure` has found: method to sparsity (0 for dense) to a row for each seed.

    Where several settings were measured at a sparsity, because more were tried later, that counts which is chosen now.
    """
    found: dict[str, dict[float, list[dict[str, Any]]]] = {}
    for row in book.rows():
        if row["epochs"] == epochs and row["seed"] != CHOOSING_SEED:
            found.setdefault(row["method"], {}).setdefault(row["goal"], []).append(row)
    for name, by_goal in found.items():
        for goal, rows in by_goal.items():
            if len({row["setting"] for row in rows}) > 1:
                chosen = _chosen(book, name, goal, epochs)
                by_goal[goal] = [row for row in rows if chosen is not None and row["setting"] == chosen.key]
    return found


def _table(book: Book, epochs: int) -> str:
    """Markdown: test accuracy, mean and spread over the seeds, of the setting that validation chose."""
    found = _measured(book, epochs)
    goals = sorted({goal for by_goal in found.values() for goal in by_goal if goal})
    usual = Counter(_told(row) for rows in found.values() for row in chain(*rows.values())).most_common(1)[0][0]
    heading = "| method | " + " | ".join(f"{100 * goal:g} %" for goal in goals) + " | seeds | other setting |"
    lines = [f"Trained with {usual} where nothing else is said.", "", heading, "|---" * (len(goals) + 3) + "|"]
    best = max(goals, default=0.0)

    def rank(name: str) -> tuple[bool, float]:
        rows = found[name].get(best, [])
        return name != "dense", -statistics.mean(row["test"] for row in rows) if rows else 0.0

    for name in sorted(found, key=rank):
        by_goal = found[name]
        cells = [_cell(by_goal.get(0.0 if name == "dense" else goal, []), goal) for goal in goals]
        seeds = _by_goal({goal: str(len(rows)) for goal, rows in by_goal.items()})
        settings = {goal: _told(rows[0]).replace(usual, "").strip() for goal, rows in by_goal.items()}
        other = (
            _by_goal({goal: text or "the usual" for goal, text in settings.items()}) if any(settings.values()) else ""
        )
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {seeds} | {other} |")
    return "\n".join(lines)


def _told(row: dict[str, Any]) -> str:
    """The setting, without the method's name where it has no options."""
    setting: str = row["setting"]
    return setting.removeprefix(f"{row['method']}()").strip()


def _by_goal(said: dict[float, str]) -> str:
    """What is to be said of each sparsity, once where it is the same of all."""
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    goals = {text: [f"{100 * goal:g}" for goal in sorted(said) if said[goal] == text] for text in said.values()}
    return "; ".join(f"{text} at {', '.join(which)} %" for text, which in goals.items())


def _cell(rows: list[dict[str, Any]], goal: float) -> str:
    values = [100 * row["test"] for row in rows]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    missed = [row["sparsity"] for row in rows if row["goal"] and abs(row["sparsity"] - goal) > 1e-3]
    noted = f" ({100 * min(missed):.1f} % zeros)" if missed else ""
    return f"{statistics.mean(values):.2f}{spread}{noted}"


if __name__ == "__main__":
    main()
