"""Several runs side by side: what each came to, what it took, and in what they differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogrid.errors import UsageError
from isogrid.names import dotted
from isogrid.report import wording
from isogrid.report.data import Point, ReportData
from isogrid.report.reading import read_report
from isogrid.units import operations, size

_SAME_RUNG = 0.002
"""Rungs whose sparsities differ by less are of one column: counts are whole numbers, and layers differ."""


@dataclass(frozen=True)
class ComparedRun:
    """A finished run under the name by which it is told from the others.

    Attributes:
        name: of its folder, as much of the path as makes it unique.
        report: what it found.
        config: how it was asked for, nested values under dotted names.
    """

    name: str
    report: ReportData
    config: Mapping[str, Any]


def read_runs(folders: Sequence[str | Path]) -> list[ComparedRun]:
    """Read finished runs.

    Raises:
        UsageError: there are fewer than two, one is given twice, one is not finished, or their metrics differ.
        FormatError: a report is damaged.
        RunError: a report cannot be read.
    """
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2:
        raise UsageError(f"{len(paths)} run was given; accepted are two run directories or more.")
    repeated = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if repeated:
        raise UsageError(f"The run {repeated[0].name} was given twice; accepted are different run directories.")
    runs = [
        ComparedRun(name, read_report(path), _config(path)) for name, path in zip(_names(paths), paths, strict=True)
    ]
    first = runs[0].report.metric
    for run in runs[1:]:
        if run.report.metric != first:
            raise UsageError(
                f"{run.name} was measured in {run.report.metric.name} and {runs[0].name} in {first.name}; accepted are "
                "runs of one metric."
            )
    return runs


def _config(path: Path) -> dict[str, Any]:
    """The configuration, flat; empty where the file is missing or damaged, for the report stands without it."""
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return dotted(found) if isinstance(found, dict) else {}


def _names(paths: Sequence[Path]) -> list[str]:
    """As many of the last parts of the paths as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def summaries(runs: Sequence[ComparedRun]) -> tuple[list[str], list[list[str]]]:
    """A heading and a row a run: what its balance point is."""
    heading = ["run", "verdict", "sparsity", "weights", "dense", "sparse", "change", "bytes"]
    rows = []
    for run in runs:
        data, balance = run.report, run.report.balance
        written = wording.scale(data)
        _, was, now = wording.judged(data)
        rows.append([
            run.name, data.verdict.state, wording.share(balance.sparsity), balance.precision, written.value(was),
            written.value(now), written.change(data.metric.worse_by(was, now)), size(balance.bytes),
        ])  # fmt: skip
    return heading, rows


def costs(runs: Sequence[ComparedRun]) -> tuple[list[str], list[list[str]]]:
    """A heading and a row a run: what it took, and what a call of the packed model takes."""
    heading = ["run", "training", "against dense", "whole run", "time", "packed, one sample", "times faster"]
    rows = []
    for run in runs:
        data = run.report
        cost = data.training
        trained = ["", "", ""]
        if cost is not None:
            trained = [operations(cost.balance), wording.more(cost), operations(cost.run)]
        timed = [row for row in (data.speed.rows if data.speed else ()) if row.model == "packed" and row.batch == 1]
        speed = [f"{timed[0].milliseconds:.3g} ms", f"{timed[0].times:.2f}x"] if timed else ["", ""]
        rows.append([run.name, *trained, wording.duration(data.seconds), *speed])
    return heading, rows


def ladders(runs: Sequence[ComparedRun], most: int) -> tuple[list[str], list[list[str]]]:
    """A heading and a row a run: the validation metric at the sparsities that most runs have measured.

    The best of the precisions' metrics counts at each rung, and at most `most` sparsities are shown, the highest.
    """
    found = [_best_by_sparsity(run.report) for run in runs]
    levels: list[float] = []
    for sparsity in sorted(each for one in found for each in one):
        if not levels or sparsity - levels[-1] >= _SAME_RUNG * (1 - levels[-1]) + 1e-6:
            levels.append(sparsity)
    shared = sorted(levels, key=lambda level: (-sum(_at(one, level) is not None for one in found), -level))[:most]
    shared.sort()
    rows = []
    for run, one in zip(runs, found, strict=True):
        written = wording.scale(run.report)
        values = [_at(one, level) for level in shared]
        rows.append([run.name, *("" if value is None else written.value(value) for value in values)])
    return ["run", *map(wording.share, shared)], rows


def _best_by_sparsity(data: ReportData) -> dict[float, float]:
    """The best metric of each rung, under the sparsity before rounding added zeros of its own."""
    rungs: dict[int, list[Point]] = {}
    for point in data.points:
        rungs.setdefault(point.rung, []).append(point)
    best = max if data.metric.higher_is_better else min
    return {min(p.sparsity for p in points): best(p.metric for p in points) for points in rungs.values()}


def _at(found: Mapping[float, float], level: float) -> float | None:
    near = [sparsity for sparsity in found if 0 <= sparsity - level < _SAME_RUNG * (1 - level) + 1e-6]
    return found[near[0]] if near else None


def differences(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """In what the runs were asked for differently: the option, and each run's value."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    rows = [(key, [_text(run.config.get(key)) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
