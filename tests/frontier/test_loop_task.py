"""A task made of a script's objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from isogrid.errors import UsageError
from isogrid.frontier import LoopTask
from isogrid.metrics import Metric, Outcomes

DATA = TensorDataset(torch.arange(24.0).reshape(12, 2), torch.arange(12) % 2)


def task(**changes: Any) -> LoopTask:
    given: dict[str, Any] = {
        "model": nn.Linear(2, 2),
        "train": [(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))],
        "evaluate": lambda _: 0.5,
        "example": torch.zeros(1, 2),
    }
    return LoopTask(**{**given, **changes})


def test_every_model_is_a_copy_of_what_the_script_gave() -> None:
    model = nn.Linear(2, 2)
    made = task(model=model)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
        made.model().weight.add_(1)  # type: ignore[operator,union-attr]
    assert torch.equal(made.model().weight, before)  # type: ignore[arg-type]


def test_defaults_are_those_of_a_classifier() -> None:
    made = task()
    batch = (torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
    model = made.model()
    answer = made.forward(model, batch)
    assert torch.equal(answer, model(batch[0]))
    assert torch.equal(made.loss(answer, batch), nn.functional.cross_entropy(answer, batch[1]))
    assert made.metric.name == "accuracy"


def test_own_forward_and_loss() -> None:
    made = task(forward=lambda model, batch: model(batch["x"]), loss=lambda answer, batch: answer.sum() * batch["k"])
    batch = {"x": torch.ones(1, 2), "k": 3.0}
    answer = made.forward(made.model(), batch)
    assert torch.equal(made.loss(answer, batch), 3 * answer.sum())


def test_splits() -> None:
    made = task(evaluate=lambda _: 0.25)
    assert made.evaluate(made.model(), "validation") == 0.25
    assert [made.has(split) for split in ("train", "validation", "test")] == [False, True, False]
    with pytest.raises(UsageError, match="test split was asked for"):
        made.evaluate(made.model(), "test")
    tested = task(test=lambda _: torch.tensor([1.0, 0.0]))
    assert tested.has("test")
    outcomes = tested.evaluate(tested.model(), "test")
    assert isinstance(outcomes, Outcomes)
    assert outcomes.value == 0.5
    with pytest.raises(UsageError, match="train split was asked for"):
        tested.evaluate(tested.model(), "train")


def test_settings_belong_to_the_object_and_not_to_the_class() -> None:
    made = task(metric=Metric("loss", False), pretrained=True, targets=["0"], name="mine")
    assert (made.metric.name, made.pretrained, made.targets, made.name) == ("loss", True, ["0"], "mine")
    other = task()
    assert (other.metric.name, other.pretrained, other.targets, other.name) == ("accuracy", False, None, "model")


def loaders() -> dict[str, Callable[[], Any]]:
    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    return {
        "global": lambda: DataLoader(DATA, batch_size=5, shuffle=True),
        "own": lambda: DataLoader(DATA, batch_size=5, shuffle=True, generator=generator()),
        "sampler": lambda: DataLoader(DATA, batch_size=5, sampler=RandomSampler(DATA, generator=generator())),
        "batch sampler": lambda: DataLoader(
            DATA, batch_sampler=BatchSampler(RandomSampler(DATA, generator=generator()), 5, drop_last=False)
        ),
    }


@pytest.mark.parametrize("kind", list(loaders()))
def test_a_pass_is_the_same_wherever_the_loaders_generator_stands(kind: str) -> None:
    made = task(train=loaders()[kind]())

    def order(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return torch.cat([x[:, 0] for x, _ in made.batches()]).tolist()  # type: ignore[no-any-return]

    assert made.steps_per_epoch() == 3
    first, other, again = order(1), order(2), order(1)
    assert first == again
    assert first != other
    assert sorted(first) == list(range(0, 24, 2))


@pytest.mark.parametrize(
    ("train", "said"), [(iter([1]), "an iterator"), ((x for x in "ab"), "an iterator"), (3, "int")]
)
def test_what_does_not_start_anew_is_refused(train: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"train is {said}"):
        task(train=train)


def test_checking_a_loader_starts_none_of_its_workers() -> None:
    class Loader(DataLoader):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise AssertionError("a pass was begun")

    task(train=Loader(DATA, batch_size=5))
