"""Recipes, tasks and batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isogrid.errors import UsageError
from isogrid.tasks import LADDER, ClassificationTask, Recipe, ShuffledBatches, Task


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "epochs=0"), ({"epochs": 1.5}, "epochs=1.5"), ({"rung_epochs": True}, "rung_epochs=True"),
        ({"lr": 0.0}, "lr=0.0"), ({"lr": float("nan")}, "lr=nan"), ({"rung_lr": -1.0}, "rung_lr=-1.0"),
        ({"optimizer": "lbfgs"}, "accepted are adam, adamw and sgd"), ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"distill": 1.1}, "distill=1.1"), ({"distill": float("nan")}, "distill=nan"),
        ({"temperature": 0.0}, "temperature=0.0"), ({"temperature": float("inf")}, "temperature=inf"),
        ({"ladder": ()}, "rising sparsities"), ({"ladder": (0.5, 0.5)}, "rising sparsities"),
        ({"ladder": (0.9, 0.5)}, "rising sparsities"), ({"ladder": (0.5, 1.0)}, "rising sparsities"),
        ({"ladder": (0.0, 0.5)}, "rising sparsities"), ({"ladder": (float("nan"),)}, "rising sparsities"),
    ],
)  # fmt: skip
def test_recipes_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"The recipe got .*{said}|{said}"):
        Recipe(**wrong)


def test_a_recipe_changes_where_it_is_told() -> None:
    recipe = Recipe(epochs=3, lr=0.5)
    assert recipe.with_(epochs=None, lr=None) == recipe
    changed = recipe.with_(epochs=7, ladder=[0.1, 0.2])
    assert (changed.epochs, changed.lr, changed.ladder) == (7, 0.5, (0.1, 0.2))
    with pytest.raises(UsageError):
        recipe.with_(epochs=0)


def test_the_ladder_rises() -> None:
    assert list(LADDER) == sorted(set(LADDER))
    assert LADDER[0] > 0
    assert LADDER[-1] < 1


class Corners(ClassificationTask):
    name, summary = "corners", "points and what they are"
    batch_size = 4

    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def data(self, split: str) -> tuple[Tensor, Tensor]:
        x = torch.arange(20.0).reshape(10, 2)
        return x, torch.arange(10) % 2


def test_a_pass_shows_each_sample_once_with_its_label() -> None:
    batches = list(Corners().batches())
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    rows = torch.cat([x for x, _ in batches])
    assert sorted(rows[:, 0].tolist()) == list(range(0, 20, 2))
    assert torch.equal(torch.cat([y for _, y in batches]), (rows[:, 0] / 2).long() % 2)
    assert Corners().steps_per_epoch() == 3


def test_the_order_is_that_of_torchs_generator() -> None:
    data = torch.arange(50.0)

    def order(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return torch.cat([part for (part,) in ShuffledBatches(data, batch_size=7)]).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_classifier_is_measured_sample_by_sample() -> None:
    task = Corners()
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.0, 0.0]))
        outcomes = task.evaluate(model, "test")
    assert outcomes.value == 0.5
    assert outcomes.predictions is not None
    assert outcomes.predictions.tolist() == [0] * 10
    assert task.example()[0].shape == (4, 2)


def test_batches_without_length_are_counted() -> None:
    class Streaming(Corners):
        def batches(self) -> Any:
            return iter(super().batches())

    assert Streaming().steps_per_epoch() == 3


def test_a_task_has_every_split_unless_it_says_otherwise() -> None:
    assert all(Corners().has(split) for split in ("train", "validation", "test"))
    with pytest.raises(TypeError, match="abstract"):
        Task()  # type: ignore[abstract]


@pytest.mark.parametrize(
    "wrong",
    [{"lr": "1e-3"}, {"lr": None}, {"rung_lr": "x"}, {"weight_decay": None}, {"distill": "x"}, {"temperature": []}],
)
def test_numbers_of_a_recipe_are_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"The recipe got .*; accepted is a"):
        Recipe(**wrong)
