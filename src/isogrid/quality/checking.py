"""All checks of a task's data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import MissingDependencyError, UnsupportedError, UsageError
from isogrid.frontier.training import calibration_batches, seed_everything
from isogrid.quality.balance import check_balance
from isogrid.quality.collecting import Samples, collect
from isogrid.quality.coverage import check_coverage
from isogrid.quality.duplicates import check_contradictions, check_duplicates, check_near_duplicates
from isogrid.quality.finding import Finding
from isogrid.quality.inputs import check_constant, check_finite
from isogrid.quality.labels import check_labels
from isogrid.tasks import Split, Task

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_COMPONENTS = 50


@dataclass(frozen=True)
class DataReport:
    """What is known of a task's data.

    Attributes:
        task: its name.
        samples: how many each split has; splits that the task cannot give are missing.
        findings: one a check.
        skipped: checks that do not apply, and why.

    >>> DataReport("digits", {"train": 3}, []).problems
    []
    """

    task: str
    samples: Mapping[str, int]
    findings: Sequence[Finding]
    skipped: Sequence[str] = ()

    @property
    def problems(self) -> list[Finding]:
        """The findings that mislead."""
        return [finding for finding in self.findings if finding.grade == "problem"]

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def check(task: Task, *, samples: int = 5000, seed: int = 0) -> DataReport:
    """Look for what makes a task's results mislead: duplicates, wrong labels, rare classes, dead inputs.

    Exact checks read every sample.  What compares samples with one another (near duplicates, labels, coverage) looks at
    `samples` of each split, drawn at random, in the space of the 50 main components of ``task.features``.

    Args:
        task: must give its training samples (``Task.samples``); with the other splits there is more to check.
        samples: how many of a split are compared.
        seed: of the draws, and of the calibration batches.

    Raises:
        UsageError: `samples` below 10.
        UnsupportedError: the task gives no training samples.
        DataError: a split is empty.
        MissingDependencyError: scikit-learn or cleanlab is not installed.

    >>> from isogrid.tasks import load_task
    >>> report = check(load_task("digits"), samples=300)
    >>> [finding.check for finding in report.findings if finding.grade == "problem"]
    []
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 10:
        raise UsageError(f"check() got samples={samples!r}; accepted is a whole number >= 10.")
    seed_everything(seed, "check", 0)
    splits: dict[str, Samples] = {split: found for split in _SPLITS if (found := _collect(task, split)) is not None}
    if "train" not in splits:
        raise UnsupportedError(f"The task {task.name} gives no training samples; its samples('train') must.")
    findings: list[Finding | None] = [check_finite(splits), check_constant(splits), check_duplicates(splits)]
    findings += [check_contradictions(splits), check_balance(splits, task.class_names())]
    drawn = {name: _draw(len(found), samples, seed) for name, found in splits.items()}
    calibration = np.concatenate(
        [task.features(batch).float().cpu().numpy() for batch in calibration_batches(task, seed)]
    )
    points, calibrated = _project(splits, drawn, np.nan_to_num(calibration))
    findings.append(check_near_duplicates(_picked(splits, drawn), points))
    skipped = [] if "test" in splits else ["near duplicates: the task does not give its test samples"]
    labels = splits["train"].labels
    if labels is None:
        skipped.append("labels, balance, contradictions: the task has no classes")
    else:
        findings.append(check_labels(points["train"], labels[drawn["train"]], drawn["train"]))
    if "validation" in points:
        count = min(len(calibrated), len(points["train"]))
        findings.append(check_coverage(points["validation"], calibrated[:count], points["train"][:count]))
    else:
        skipped.append("calibration: the task does not give its validation samples")
    counts = {name: len(found) for name, found in splits.items()}
    return DataReport(task.name, counts, [finding for finding in findings if finding is not None], skipped)


def _collect(task: Task, split: Split) -> Samples | None:
    return collect(task, split) if split == "train" or task.has(split) else None


def _draw(size: int, samples: int, seed: int) -> NDArray[np.int64]:
    if size <= samples:
        return np.random.default_rng(seed).permutation(size)
    return np.random.default_rng(seed).choice(size, samples, replace=False)


def _picked(splits: Mapping[str, Samples], drawn: Mapping[str, NDArray[np.int64]]) -> dict[str, Samples]:
    """The splits with what was drawn of the test split, and the whole training split to look exact twins up in."""
    picked = dict(splits)
    if "test" in picked:
        test, at = picked["test"], drawn["test"]
        picked["test"] = Samples(test.features[at], test.digests[at], None, test.finite[at], test.constant[at])
    return picked


def _project(
    splits: Mapping[str, Samples], drawn: Mapping[str, NDArray[np.int64]], calibration: NDArray[np.float32]
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """What was drawn of each split, and the calibration samples, as main components of the training samples."""
    try:
        from sklearn.decomposition import PCA
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "Data are checked with scikit-learn, which is not installed; install it with: "
            "pip install 'isogrid[quality]'."
        ) from None
    train = splits["train"].features[drawn["train"]]
    components = min(_COMPONENTS, *train.shape)
    pca = PCA(components, svd_solver="randomized" if train.shape[1] > 2 * components else "auto", random_state=0)
    pca.fit(train)
    points = {name: pca.transform(found.features[drawn[name]]).astype(np.float32) for name, found in splits.items()}
    return points, pca.transform(calibration).astype(np.float32)
