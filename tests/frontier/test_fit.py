"""Training to an accuracy threshold within a limit of steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isogrid as ig
from isogrid.errors import DataError, SparsifierError, TrainingError, UsageError
from isogrid.frontier.fit import fit
from isogrid.metrics import Metric


@pytest.fixture
def parts() -> dict[str, Any]:
    """A separable problem of four batches."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    y = (x[:, 0] > 0).long()
    model = nn.Linear(8, 2)
    return {
        "model": model,
        "train": [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)],
        "optimizer": torch.optim.Adam(model.parameters(), lr=0.05),
        "evaluate": lambda m: (m(x).argmax(1) == y).float(),
    }


def test_it_stops_at_the_first_measurement_that_reaches_the_threshold(parts: dict[str, Any]) -> None:
    done = fit(**parts, max_steps=400, until=0.9)
    assert done.reached
    assert done.steps < 400
    assert done.steps % 4 == 0
    assert done.metric == done.history[-1][1] >= 0.9
    assert all(value < 0.9 for _, value, _ in done.history[:-1])


def test_the_limit_of_steps_ends_what_does_not_reach_it(parts: dict[str, Any]) -> None:
    done = fit(**parts, max_steps=6, until=1.01)
    assert not done.reached
    assert done.steps == 6
    assert [step for step, _, _ in done.history] == [4, 6]


def test_a_threshold_reached_at_the_very_limit_counts(parts: dict[str, Any]) -> None:
    done = fit(**parts, max_steps=1, until=0.0)
    assert (done.reached, done.steps, len(done.history)) == (True, 1, 1)
    assert done.metric == pytest.approx(float(parts["evaluate"](parts["model"]).mean()))


@pytest.mark.parametrize(("every", "steps"), [(3, [3, 6, 9, 10]), (5, [5, 10]), (20, [10]), (None, [4, 8, 10])])
def test_it_measures_at_the_interval_and_once_at_the_end(
    parts: dict[str, Any], every: int | None, steps: list[int]
) -> None:
    done = fit(**parts, max_steps=10, evaluate_every=every)
    assert [step for step, _, _ in done.history] == steps
    assert not done.reached


def test_the_loop_is_the_plain_one(parts: dict[str, Any]) -> None:
    torch.manual_seed(1)
    twin = nn.Linear(8, 2)
    twin.load_state_dict(parts["model"].state_dict())
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.05)
    for x, y in [*parts["train"], *parts["train"][:1]]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        optimizer.step()
    steps: list[int] = []
    fit(**parts, max_steps=5, on_step=steps.append)
    assert torch.equal(parts["model"].weight, twin.weight)
    assert steps == [1, 2, 3, 4, 5]


def test_a_threshold_before_the_zeros_are_there_says_nothing(parts: dict[str, Any]) -> None:
    sparsifier = ig.Sparsifier(parts["model"], ig.Gradual(sparsity=0.5), optimizer=parts["optimizer"], total_steps=20)
    done = fit(**parts, max_steps=100, until=0.0, sparsifier=sparsifier)
    assert done.reached
    assert done.steps == 20
    assert done.history[-1][2] == sparsifier.finalize()["sparsity"] == 0.5


def test_measurements_reach_the_sparsifier(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sparsifier = ig.Sparsifier(parts["model"], ig.Gradual(sparsity=0.5), optimizer=parts["optimizer"], total_steps=12)
    heard: list[float] = []
    monkeypatch.setattr(sparsifier, "observe", heard.append)
    done = fit(**parts, max_steps=12, sparsifier=sparsifier)
    assert heard == [value for _, value, _ in done.history]
    assert len(heard) == 3


def test_the_penalty_is_in_the_loss(parts: dict[str, Any]) -> None:
    sparsifier = ig.Sparsifier(parts["model"], ig.L2(5.0), optimizer=parts["optimizer"], total_steps=60)
    fit(**parts, max_steps=60, sparsifier=sparsifier)
    assert float(parts["model"].weight.detach().abs().max()) < 0.1


def test_lower_is_better(parts: dict[str, Any]) -> None:
    x, y = parts["train"][0]
    parts["evaluate"] = lambda m: float(nn.functional.cross_entropy(m(x), y))
    done = fit(**parts, max_steps=400, until=0.3, metric=Metric("loss", higher_is_better=False))
    assert done.reached
    assert done.metric <= 0.3
    assert all(value > 0.3 for _, value, _ in done.history[:-1])


def test_evaluation_is_in_eval_mode_without_gradients_and_the_mode_comes_back(parts: dict[str, Any]) -> None:
    modes: list[tuple[bool, bool]] = []
    own = parts["evaluate"]

    def evaluate(model: nn.Module) -> Tensor:
        modes.append((model.training, torch.is_grad_enabled()))
        return own(model)  # type: ignore[no-any-return]

    fit(**{**parts, "evaluate": evaluate}, max_steps=8)
    assert modes == [(False, False)] * 2
    assert parts["model"].training


def test_an_own_loss(parts: dict[str, Any]) -> None:
    parts["train"] = [x for x, _ in parts["train"]]
    done = fit(**parts, max_steps=4, loss=lambda model, batch: model(batch).square().mean())
    assert done.steps == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_steps": 0}, "max_steps=0"),
        ({"max_steps": True}, "max_steps=True"),
        ({"max_steps": 1.5}, "max_steps=1.5"),
        ({"evaluate_every": 0}, "evaluate_every=0"),
        ({"until": float("nan")}, "until=nan"),
    ],
)
def test_bad_limits_are_named(parts: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit(**{**parts, "max_steps": 3, **change})


def test_a_loss_that_is_not_finite_ends_it_before_the_weights_move(parts: dict[str, Any]) -> None:
    before = parts["model"].weight.detach().clone()
    with pytest.raises(TrainingError, match="became nan at step 0"):
        fit(**parts, max_steps=3, loss=lambda model, batch: model(batch[0]).sum() * float("nan"))
    assert torch.equal(parts["model"].weight, before)


def test_no_batch_is_said(parts: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="gave no batch"):
        fit(**{**parts, "train": []}, max_steps=3)

    def once() -> Iterator[Any]:
        yield from parts["train"][:1]

    with pytest.raises(DataError, match="starts anew at each pass"):
        fit(**{**parts, "train": once()}, max_steps=3)


def test_a_sparsifier_without_steps_left_is_not_finalised_here(parts: dict[str, Any]) -> None:
    sparsifier = ig.Sparsifier(parts["model"], ig.Gradual(sparsity=0.5), optimizer=parts["optimizer"], total_steps=20)
    assert not fit(**parts, max_steps=8, until=0.0, sparsifier=sparsifier).reached
    with pytest.raises(SparsifierError, match="8 of 20 steps"):
        sparsifier.finalize()
