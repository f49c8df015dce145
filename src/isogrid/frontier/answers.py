"""What the report shows of the answers on the test split: classes, and what changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from isogrid.metrics import Outcomes
from isogrid.report.data import ChangedExample, Changes, ClassRow

_EXAMPLES = 24


class Described(Protocol):
    """What may be known of the samples."""

    def class_names(self) -> Sequence[str] | None:
        """Names of the classes."""

    def image(self, split: Any, index: int) -> Any:
        """A sample as a two-dimensional array, None where it is no image."""


def class_rows(task: Described, dense: Outcomes, sparse: Outcomes) -> list[ClassRow]:
    """The metric on the samples of each class."""
    if sparse.labels is None:
        return []
    rows = []
    for label in np.unique(sparse.labels):
        of_class = sparse.labels == label
        rows.append(
            ClassRow(
                name=_class_name(task, int(label)), samples=int(of_class.sum()),
                dense=float(dense.scores[of_class].mean()), sparse=float(sparse.scores[of_class].mean()),
            )
        )  # fmt: skip
    return rows


def changes(task: Described, dense: Outcomes, sparse: Outcomes) -> Changes | None:
    """Which answers on the test split changed, with examples."""
    if dense.predictions is None or sparse.predictions is None or sparse.labels is None:
        return None
    was, now = dense.predictions == dense.labels, sparse.predictions == sparse.labels
    differing = np.flatnonzero(dense.predictions != sparse.predictions)[:_EXAMPLES]
    examples = [
        ChangedExample(
            index=int(index), label=_class_name(task, int(sparse.labels[index])),
            dense=_class_name(task, int(dense.predictions[index])),
            sparse=_class_name(task, int(sparse.predictions[index])), image=_image(task, int(index)),
        )
        for index in differing
    ]  # fmt: skip
    return Changes(
        both_right=int((was & now).sum()), both_wrong=int((~was & ~now).sum()), fixed=int((~was & now).sum()),
        broken=int((was & ~now).sum()), examples=examples,
    )  # fmt: skip


def _class_name(task: Described, index: int) -> str:
    names = task.class_names()
    return str(names[index]) if names is not None and 0 <= index < len(names) else str(index)


def _image(task: Described, index: int) -> list[list[float]] | None:
    picture: Any = task.image("test", index)
    if picture is None:
        return None
    array = np.asarray(picture, dtype=np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        return None  # no picture that a page could show, and no reason to lose the report
    span = float(array.max() - array.min()) or 1.0
    return [[round(float(v), 3) for v in row] for row in (array - array.min()) / span]
