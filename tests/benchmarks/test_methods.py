"""The benchmark of methods: settings are told apart, the average keeps the zeros, the rival prunes as it should."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.methods import run, training
from benchmarks.methods.plan import Setting, settings_of

from isogrid.masks import count_zeros
from isogrid.sparsify import methods
from isogrid.tasks import ClassificationTask, Split

AVERAGED = Setting("gradual", lr=0.1, weight_decay=5e-4, rest=0.3, average=0.9)


class Corners(ClassificationTask):
    """Four clouds; 8 epochs are 80 steps."""

    name, summary = "corners", "four clouds"
    batch_size = 16

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 4))

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(len(split))
        labels = torch.arange(160) % 4
        centres = torch.eye(8)[:4] * 3
        return centres[labels] + torch.randn(160, 8, generator=generator), labels


@pytest.fixture
def task() -> Corners:
    return Corners()


def trained(task: Corners, setting: Setting, sparsity: float = 0.8) -> nn.Module:
    return training.trained(task, replace(setting, batch=16), sparsity, 8, 0)


@pytest.mark.parametrize("task_name", ["fashion-mnist", "small-conv"])
def test_the_file_of_results_tells_all_settings_of_the_plan_apart(task_name: str) -> None:
    for name in methods():
        tried = settings_of(name, task_name)
        assert len({setting.key for setting in tried}) == len(tried)
        assert all(setting.method == name for setting in tried)
    assert AVERAGED.key == "gradual() lr=0.1 wd=0.0005 rest=0.3 average=0.9"
    assert Setting("dense").key == "dense() lr=0.05 wd=0.0005"


def test_the_rate_rises_to_its_peak_and_falls_to_the_rest() -> None:
    shares = [training._rate(step, 200, 0.25) for step in range(200)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(shares[10:]))
    assert shares[105] == pytest.approx(0.625)
    assert 0.25 < shares[-1] < 0.2501
    assert training._rate(199, 200, 0.0) < 1e-4


def test_the_average_is_the_moving_one_of_each_number() -> None:
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.BatchNorm1d(2))
    average = training._Average(0.75)
    seen = ([1.0, 4.0], [3.0, 4.0], [3.0, 0.0])
    for values in seen:
        model[0].weight.data = torch.tensor(values).reshape(2, 1)
        model[1].running_mean.fill_(values[0])
        average.after_step(model)
    average.give(model)
    # 1, then 1 + 0.5, then 1.5 + 0.375; the second weight is zero in the last step's model and stays so.
    assert model[0].weight.flatten().tolist() == [1.875, 0.0]
    assert model[1].running_mean.tolist() == [1.875, 1.875]
    assert int(model[1].num_batches_tracked) == 0


@pytest.mark.parametrize("method", ["gradual", "torch.prune", "rigl", "str"])
def test_an_averaged_model_is_another_one_with_as_many_zeros(task: Corners, method: str) -> None:
    last = trained(task, replace(AVERAGED, method=method, average=0.0))
    averaged = trained(task, replace(AVERAGED, method=method))
    assert count_zeros(averaged) == count_zeros(last)
    assert count_zeros(averaged)["sparsity"] == pytest.approx(0.8, abs=1 / 240)
    for (name, one), other in zip(last.named_parameters(), averaged.parameters(), strict=True):
        assert torch.equal(one == 0, other == 0), name
        assert not torch.equal(one, other), name
        assert torch.allclose(one, other, atol=0.3), name


def test_the_rival_ends_as_a_plain_module_at_the_sparsity(task: Corners) -> None:
    model = trained(task, Setting("torch.prune", lr=0.05), 0.9)
    assert sorted(name for name, _ in model.named_parameters()) == sorted(
        name for name, _ in task.model().named_parameters()
    )
    assert count_zeros(model)["sparsity"] == 0.9


def test_methods_after_training_share_one_dense_training(task: Corners, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings: list[str] = []
    loop = training._loop

    def counted(task: Any, model: Any, setting: Setting, *rest: Any, **options: Any) -> None:
        trainings.append(setting.key)
        loop(task, model, setting, *rest, **options)

    monkeypatch.setattr(training, "_loop", counted)
    monkeypatch.setattr(training, "_DENSE", {})
    found = [trained(task, Setting(name, lr=0.05), 0.5) for name in ("one_shot", "wanda")]
    assert len(trainings) == 1
    assert all(count_zeros(model)["sparsity"] == 0.5 for model in found)
    trained(task, Setting("one_shot", lr=0.1), 0.5)
    assert len(trainings) == 2


def test_only_settings_of_the_plan_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    book = run.Book("fashion-mnist")
    common = {"method": "gradual", "goal": 0.98, "epochs": 20, "seed": run.CHOOSING_SEED}
    assert run._chosen(book, "gradual", 0.98, 20) is None
    planned = settings_of("gradual", "fashion-mnist")
    book.add({**common, "setting": "gradual() of another plan", "validation": 0.99})
    assert run._chosen(book, "gradual", 0.98, 20) is None
    book.add({**common, "setting": planned[1].key, "validation": 0.8})
    book.add({**common, "setting": planned[0].key, "validation": 0.7})
    assert run._chosen(book, "gradual", 0.98, 20) == planned[1]
    assert run._chosen(book, "gradual", 0.99, 20) is None


def test_the_table_says_the_mean_the_spread_and_the_setting_of_each_sparsity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    book = run.Book("fashion-mnist")

    def add(method: str, goal: float, seed: int, test: float, lr: float, **other: Any) -> None:
        setting = f"{method}() lr={lr:g} wd=0"
        row = {"method": method, "setting": setting, "goal": goal, "epochs": 20, "seed": seed, "test": test}
        book.add({**row, "validation": 0.5, "sparsity": goal, **other})

    add("gradual", 0.98, 0, 0.88, 0.1)
    add("gradual", 0.98, 1, 0.90, 0.1)
    add("gradual", 0.99, 0, 0.87, 0.2)
    add("gradual", 0.99, run.CHOOSING_SEED, 0.99, 0.2)
    add("gradual", 0.99, 0, 0.99, 0.2, epochs=60)
    add("static", 0.99, 0, 0.6, 0.1, sparsity=0.985)
    add("dense", 0.0, 0, 0.9, 0.1)
    assert run._table(book, 20).splitlines() == [
        "Trained with lr=0.1 wd=0 where nothing else is said.",
        "",
        "| method | 98 % | 99 % | seeds | other setting |",
        "|---|---|---|---|---|",
        "| dense | 90.00 | 90.00 | 1 |  |",
        "| gradual | 89.00 ± 1.41 | 87.00 | 2 at 98 %; 1 at 99 % | the usual at 98 %; lr=0.2 wd=0 at 99 % |",
        "| static |  | 60.00 (98.5 % zeros) | 1 |  |",
    ]


def test_of_several_measured_settings_the_table_shows_the_one_that_is_chosen_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    book = run.Book("fashion-mnist")
    first, second = settings_of("gradual", "fashion-mnist")[:2]
    for setting, validation, test in ((first, 0.8, 0.95), (second, 0.9, 0.7)):
        row = {"method": "gradual", "setting": setting.key, "goal": 0.98, "epochs": 20, "sparsity": 0.98}
        book.add({**row, "seed": run.CHOOSING_SEED, "validation": validation})
        book.add({**row, "seed": 0, "validation": validation, "test": test})
    assert [row["test"] for row in run._measured(book, 20)["gradual"][0.98]] == [0.7]
