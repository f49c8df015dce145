"""Each check finds what was put into the data, and nothing in data that are clean."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isogrid.errors import DataError, UnsupportedError, UsageError
from isogrid.quality import DataReport, Finding, check
from isogrid.quality.balance import check_balance
from isogrid.quality.collecting import collect
from isogrid.tasks import ClassificationTask, Split, Task, load_task


class Clouds(ClassificationTask):
    """Three clouds of points in twelve dimensions, far enough apart that a label can be told."""

    name, summary = "clouds", "made up"

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.parts: dict[Split, tuple[Tensor, Tensor]] = {}
        centres = 3 * rng.standard_normal((3, 12))
        sizes: dict[Split, int] = {"train": 300, "validation": 150, "test": 150}
        for split, size in sizes.items():
            labels = rng.permutation(np.arange(size) % 3)
            inputs = centres[labels] + rng.standard_normal((size, 12))
            self.parts[split] = torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)

    def model(self) -> nn.Module:
        return nn.Linear(12, 3)

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        return self.parts[split]


def findings(task: Task) -> dict[str, Finding]:
    return {finding.check: finding for finding in check(task).findings}


def test_clean_data_are_good_in_every_check() -> None:
    report = check(Clouds())
    assert report.samples == {"train": 300, "validation": 150, "test": 150}
    assert {finding.check: finding.grade for finding in report.findings} == dict.fromkeys(
        ["finite", "constant", "duplicates", "contradictions", "balance", "near duplicates", "labels", "calibration"],
        "good",
    )
    assert report.skipped == []


def test_inputs_that_are_not_finite() -> None:
    task = Clouds()
    task.parts["validation"][0][7, 3] = float("nan")
    task.parts["validation"][0][9, 0] = float("-inf")
    found = findings(task)["finite"]
    assert found.grade == "problem"
    assert found.text == "Inputs that are NaN or infinite: 2 of validation."
    assert found.examples == {"validation": [7, 9]}


def test_constant_features_and_samples() -> None:
    task = Clouds()
    for inputs, _ in task.parts.values():
        inputs[:, 5] = 1
    task.parts["test"][0][3] = 1
    found = findings(task)["constant"]
    assert found.grade == "note"
    assert found.text == "1 of 12 features never change; 1 test samples are one number throughout."
    assert found.examples == {"test": [3]}


@pytest.mark.parametrize(("copies", "grade"), [(1, "note"), (6, "problem")])
def test_samples_that_are_in_two_splits(copies: int, grade: str) -> None:
    task = Clouds()
    for split in ("train", "test"):
        task.parts[split][0][:copies] = task.parts["validation"][0][:copies]
    task.parts["train"][0][-1] = task.parts["train"][0][-2]
    found = findings(task)["duplicates"]
    assert found.grade == grade
    assert found.numbers == {
        "repeats in train": 1.0, "validation samples in train": copies, "test samples in train": copies,
        "test samples in validation": copies,
    }  # fmt: skip
    assert found.examples["test"] == list(range(copies))


def test_twins_with_two_labels_bound_what_is_reachable() -> None:
    task = Clouds()
    inputs, labels = task.parts["train"]
    inputs[10] = inputs[20]
    labels[10] = (labels[20] + 1) % 3
    found = findings(task)["contradictions"]
    assert (found.grade, found.numbers["samples"]) == ("note", 2)
    assert found.examples == {"train": [10, 20]}


def test_test_samples_that_are_almost_training_samples() -> None:
    task = Clouds()
    task.parts["test"][0][:30] = task.parts["train"][0][:30] + 1e-3
    task.parts["test"][0][40] = task.parts["train"][0][40]  # exactly: that is the other check's
    found = findings(task)["near duplicates"]
    assert found.grade == "problem"
    assert found.numbers["samples"] == 30


def test_classes_that_are_rare_missing_or_spread_differently() -> None:
    task = Clouds()
    inputs, labels = task.parts["train"]
    keep = (labels != 2) | (torch.cumsum(labels == 2, 0) <= 4)
    task.parts["train"] = inputs[keep], labels[keep]
    found = findings(task)["balance"]
    assert found.grade == "note"
    assert "the largest class is 25 times the smallest" in found.text
    assert "of test would have to change class" in found.text
    task.parts["train"] = inputs[labels != 2], labels[labels != 2]
    found = findings(task)["balance"]
    assert found.grade == "problem"
    assert "validation has classes that train has not: 2" in found.text


@pytest.mark.parametrize("name", ["clouds", "digits"])
def test_wrong_labels_lie_between_sure_and_doubtful(name: str) -> None:
    task: Any = Clouds() if name == "clouds" else load_task(name)
    inputs, labels = (part.clone() for part in task.data("train"))
    rng = np.random.default_rng(1)
    wrong = rng.random(len(labels)) < 0.1
    classes = int(labels.max()) + 1
    labels[wrong] = (labels[wrong] + torch.tensor(rng.integers(1, classes, int(wrong.sum())))) % classes
    clean = {split: task.data(split) for split in ("validation", "test")}
    task.data = lambda split: (inputs, labels) if split == "train" else clean[split]
    found = findings(task)["labels"]
    assert found.grade == "problem"
    assert found.numbers["surely wrong"] <= wrong.mean() <= found.numbers["doubtful"] + 0.02
    assert np.mean(wrong[list(found.examples["train"])]) > 0.9


def test_calibration_batches_that_are_all_alike() -> None:
    class Sorted(Clouds):
        """Gives its training data class by class, as a loader that does not shuffle may."""

        def batches(self) -> Any:
            inputs, labels = self.parts["train"]
            order = labels.argsort()
            many = order.repeat_interleave(12)
            return [(inputs[part], labels[part]) for part in torch.split(many, 64)]

        def samples(self, split: Split) -> Any:
            return [self.parts[split]]

    found = findings(Sorted())["calibration"]
    assert found.grade == "problem"
    assert found.numbers["coverage"] < 0.5 < found.numbers["coverage of a random draw"]


def test_a_task_that_gives_little_is_checked_for_what_it_gives() -> None:
    class Numbers(Task):
        name, summary = "numbers", "no classes, and training samples alone"

        def model(self) -> nn.Module:
            return nn.Linear(3, 1)

        def batches(self) -> Any:
            torch.manual_seed(0)
            return [(torch.randn(50, 3), torch.randn(50, 1)) for _ in range(2)]

        def evaluate(self, model: nn.Module, split: Split) -> float:
            return 0.0

        def example(self) -> tuple[Tensor, ...]:
            return (torch.zeros(2, 3),)

    report = check(Numbers())
    assert report.samples == {"train": 100}
    assert [finding.check for finding in report.findings] == ["finite", "constant", "duplicates"]
    assert len(report.skipped) == 3


def test_a_report_is_json_and_repeats() -> None:
    first, second = check(Clouds(), samples=100).to_json(), check(Clouds(), samples=100).to_json()
    assert first == second
    assert json.loads(first)["task"] == "clouds"
    bad = Finding("x", "problem", "")
    assert DataReport("t", {}, [bad, Finding("y", "note", "")]).problems == [bad]


def test_what_cannot_be_checked_is_said_in_a_sentence() -> None:
    with pytest.raises(UsageError, match="samples=5; accepted is a whole number >= 10"):
        check(Clouds(), samples=5)
    task = Clouds()
    task.samples = lambda _: None  # type: ignore[method-assign,assignment]
    with pytest.raises(UnsupportedError, match="clouds gives no training samples"):
        check(task)
    task = Clouds()
    task.parts["test"] = torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(DataError, match="The test split of clouds is empty"):
        check(task)


class Batched(Task):
    """Training batches as they are given; nothing else is asked of it."""

    name, summary = "batched", "made up"

    def __init__(self, *batches: Any) -> None:
        self.given = batches

    def model(self) -> nn.Module:
        raise NotImplementedError

    def batches(self) -> Any:
        return self.given

    def evaluate(self, model: nn.Module, split: Split) -> float:
        raise NotImplementedError

    def example(self) -> tuple[Tensor, ...]:
        raise NotImplementedError


class Named(Batched):
    """Batches are mappings, as a tokenizer makes them."""

    def features(self, batch: Any) -> Tensor:
        return batch["ids"].float()

    def classes(self, batch: Any) -> Tensor:
        return batch["labels"]


def test_inputs_are_told_apart_where_they_meet() -> None:
    """(1, 2) and (513, 0) are the same bytes one behind the other, without the zeros at their ends."""
    pairs = torch.tensor([1, 513]), torch.tensor([2, 0]), torch.tensor([0, 1])
    assert len(set(collect(Batched(pairs), "train").digests)) == 2  # type: ignore[union-attr]


def test_a_batch_of_inputs_alone_has_no_labels_to_leave_out() -> None:
    digests = collect(Batched((torch.tensor([[1.0], [2.0], [1.0]]),)), "train").digests  # type: ignore[union-attr]
    assert digests[0] == digests[2] != digests[1]


def test_labels_of_a_mapping_are_no_inputs() -> None:
    twins = {"ids": torch.tensor([[1, 2], [1, 2]]), "labels": torch.tensor([0, 1])}
    digests = collect(Named(twins), "train").digests  # type: ignore[union-attr]
    assert digests[0] == digests[1]


def test_numbers_that_numpy_does_not_know_are_inputs_too() -> None:
    digests = collect(Batched((torch.ones(2, 3, dtype=torch.bfloat16), torch.zeros(2))), "train").digests  # type: ignore[union-attr]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.ones(3, 2), torch.zeros(2, dtype=torch.long)), "has 2 labels for 3 samples; accepted is one a sample"),
        ({"x": torch.ones(3, 2)}, "is a dict; accepted is a tuple that begins with the inputs, or a task that defines"),
    ],
)
def test_batches_that_cannot_be_looked_at(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        collect(Batched(batch), "train")


def test_classes_may_be_called_by_any_number() -> None:
    labels = torch.tensor([-1, -1, 10**11, 10**11, 7, 7])
    split = collect(Batched((torch.rand(6, 2), labels)), "train")
    assert split is not None
    found = check_balance({"train": split, "test": split}, ["a", "b"])
    assert found is not None
    assert found.numbers["classes"] == 3
    assert found.numbers["test from train"] == 0
