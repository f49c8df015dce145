"""What the report shows of the answers on the test split."""

from __future__ import annotations

from typing import Any

import numpy as np

from isogrid.frontier.answers import changes, class_rows
from isogrid.metrics import Outcomes
from isogrid.tasks import ClassificationTask


def test_classes_and_changed_predictions(tiny: ClassificationTask) -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    dense = Outcomes.of_classes([0, 0, 1, 0, 2, 0], labels)
    sparse = Outcomes.of_classes([0, 1, 1, 1, 2, 1], labels)
    rows = class_rows(tiny, dense, sparse)
    assert [(row.name, row.samples, row.dense, row.sparse) for row in rows] == [
        ("0", 2, 1.0, 0.5), ("1", 2, 0.5, 1.0), ("2", 2, 0.5, 0.5),
    ]  # fmt: skip
    changed = changes(tiny, dense, sparse)
    assert changed is not None
    assert (changed.both_right, changed.both_wrong, changed.fixed, changed.broken) == (3, 1, 1, 1)
    assert [(e.index, e.label, e.dense, e.sparse) for e in changed.examples] == [
        (1, "0", "0", "1"), (3, "1", "0", "1"), (5, "2", "0", "1"),
    ]  # fmt: skip
    assert all(example.image is None for example in changed.examples)


def test_scores_without_classes_have_none(tiny: ClassificationTask) -> None:
    scores = Outcomes(np.ones(4))
    assert class_rows(tiny, scores, scores) == []
    assert changes(tiny, scores, scores) is None


def test_names_and_pictures_of_a_task_are_used(tiny: ClassificationTask) -> None:
    class Pictured(type(tiny)):  # type: ignore[misc]
        def class_names(self) -> list[str]:
            return ["cat", "dog"]

        def image(self, split: str, index: int) -> Any:
            return np.array([[0.0, 2.0], [4.0, float(index)]])

    outcomes = [Outcomes.of_classes(predicted, [0, 2]) for predicted in ([0, 2], [1, 2])]
    changed = changes(Pictured(), *outcomes)
    assert changed is not None
    (example,) = changed.examples
    assert (example.label, example.dense, example.sparse) == ("cat", "cat", "dog")
    assert example.image == [[0.0, 0.5], [1.0, 0.0]]
    assert [row.name for row in class_rows(Pictured(), *outcomes)] == ["cat", "2"]
