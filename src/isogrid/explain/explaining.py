"""All that can be said of a finished run's sparse model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from isogrid.errors import FormatError, UnsupportedError, UsageError
from isogrid.explain.confidence import ConfidenceChange, confidence_change, probabilities
from isogrid.explain.inputs import InputRow, input_importance, input_rows
from isogrid.explain.stability import StabilityRow, stability
from isogrid.explain.units import UnitRow, unit_importance, unit_rows
from isogrid.formats.model import load
from isogrid.masks import find_targets
from isogrid.report.data import Changes, ClassRow
from isogrid.report.reading import read_report
from isogrid.tasks import Split, Task, load_task


@dataclass(frozen=True)
class Explanation:
    """What carries the sparse model of a run, and what it does differently from the dense one.

    Attributes:
        task: its name.
        split: what was looked at: validation, or the training data where the task does not give it.
        batches: how many batches of it.
        inputs: which inputs carry the model.
        units: which units carry each layer.
        confidence: how sure both models are; None where there are no classes.
        classes: how each class fares, as in the report.
        changes: samples whose answer changed, as in the report.
        stability: how alike the masks of several runs are; None for one run.
    """

    task: str
    split: str
    batches: int
    inputs: Sequence[InputRow]
    units: Sequence[UnitRow]
    confidence: ConfidenceChange | None
    classes: Sequence[ClassRow]
    changes: Changes | None
    stability: Sequence[StabilityRow] | None

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, default=lambda value: value.tolist()) + "\n"


def explain(
    run: str | Path,
    others: Sequence[str | Path] = (),
    *,
    task: Task | str | None = None,
    batches: int = 20,
) -> Explanation:
    """Say which inputs and units carry the sparse model of a finished run, and what changed against the dense one.

    Args:
        run: its directory.
        others: directories of runs of the same task from other seeds, for the stability of the masks.
        task: the task, its name or its file; by default the one that the run names.
        batches: how many batches of the validation split are looked at.

    Raises:
        UsageError: a run that is not finished, a task that is not known, `batches` below 1, or runs of other models.
        FormatError: a file of the run is damaged.
        UnsupportedError: the task gives no samples to look at.
    """
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
        raise UsageError(f"explain() got batches={batches!r}; accepted is a whole number >= 1.")
    path = Path(run)
    report = read_report(path)
    known = _task(path, task)
    dense, sparse = (_model(path, name, known) for name in ("dense", "model"))
    split: Split = "validation" if known.samples("validation") is not None else "train"
    given = known.samples(split)
    if given is None:
        raise UnsupportedError(f"The task {known.name} gives no samples; its samples() must give those of a split.")
    seen = list(islice(given, batches))
    units = [unit_importance(known, model, seen) for model in (dense, sparse)]
    inputs = [input_importance(known, model, seen) for model in (dense, sparse)]
    told = [probabilities(known, model, seen) for model in (dense, sparse)]
    change = None if told[0] is None or told[1] is None else confidence_change(told[0][0], told[1][0], told[0][1])
    masks = [_active(_model(Path(one), "model", known), known) for one in (path, *others)] if others else None
    return Explanation(
        known.name, split, len(seen), input_rows(known, *inputs), unit_rows(*units), change,
        report.classes, report.changes, None if masks is None else stability(masks),
    )  # fmt: skip


def _task(run: Path, task: Task | str | None) -> Task:
    if isinstance(task, Task):
        return task
    if task is not None:
        return load_task(task)
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        name, setting = config["task"], config.get("setting")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as problem:
        raise FormatError(f"{run / 'config.json'} cannot be read, so name the task: {problem}") from None
    try:
        found = load_task(str(name))
    except UsageError as problem:
        raise UsageError(
            f"The run is of the task {name!r}, which is not a ready one; name its file. {problem}"
        ) from None
    return found if setting is None else found.at(str(setting))


def _model(run: Path, name: str, task: Task) -> nn.Module:
    file = run / f"{name}.safetensors"
    if not file.is_file():
        raise UsageError(f"{run} is no finished run: {file.name} is missing; give the --out of isogrid optimize.")
    return load(file, into=task.model()).eval()


def _active(model: nn.Module, task: Task) -> dict[str, NDArray[np.bool_]]:
    targets: Any = find_targets(model, task.targets, task.ignore)
    return {target.name: target.canonical(target.parameter.detach()).ne(0).cpu().numpy() for target in targets}
