"""One phase of training."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isogrid as ig
from isogrid.distillation import distillation_loss
from isogrid.errors import DataError, TrainingError, UsageError
from isogrid.frontier.ensemble import Ensemble
from isogrid.frontier.events import EpochEnd, Listener, Listeners
from isogrid.frontier.phases import Phase
from isogrid.frontier.rundir import RunDirectory
from isogrid.frontier.tensor_states import save_state
from isogrid.frontier.training import (
    Trainer,
    build_optimizer,
    rate_at,
    seed_everything,
)
from isogrid.tasks import ClassificationTask, Recipe


def trainer(task: ClassificationTask, folder: Path, listener: Listener | None = None, **recipe: Any) -> Trainer:
    run = RunDirectory(folder)
    run.checkpoints.mkdir(exist_ok=True)
    return Trainer(task, task.recipe.with_(**recipe), run, 0, listener or Listener())


def like(tiny: ClassificationTask, **methods: Any) -> ClassificationTask:
    """The tiny task with other methods."""
    task: ClassificationTask = type("Other", (type(tiny),), methods)()
    return task


def test_a_phase_learns_and_ends_in_a_checkpoint(tiny: ClassificationTask, tmp_path: Path) -> None:
    one = trainer(tiny, tmp_path)
    trained = one.train(Phase("dense-00", "dense", 3, 1e-2))
    assert trained.steps == 15
    assert trained.metric > 0.8
    assert trained.metric == one.measure(one.model_of(trained), "validation").value  # type: ignore[union-attr]
    assert [path.name for path in one._run.checkpoints.iterdir()] == ["dense-00.ckpt"]
    assert [entry["step"] for entry in one.history] == [5, 10, 15]


def test_a_finished_phase_is_read_and_not_trained(tiny: ClassificationTask, tmp_path: Path) -> None:
    first = trainer(tiny, tmp_path)
    trained = first.train(Phase("dense-00", "dense", 2, 1e-2))
    steps: list[float] = []
    again = trainer(tiny, tmp_path, type("L", (Listener,), {"step_taken": lambda _, __, share: steps.append(share)})())
    read = again.train(Phase("dense-00", "dense", 2, 1e-2))
    assert steps == []
    assert (read.metric, read.steps) == (trained.metric, trained.steps)
    assert again.history == first.history
    for name, value in trained.model.items():
        assert torch.equal(value, read.model[name])


def test_a_partial_checkpoint_that_a_kill_left_beside_the_whole_one_goes(
    tiny: ClassificationTask, tmp_path: Path
) -> None:
    one = trainer(tiny, tmp_path)
    one.train(Phase("dense-00", "dense", 1, 1e-2))
    save_state(one._run, "dense-00.partial", {})
    one.train(Phase("dense-00", "dense", 1, 1e-2))
    assert [path.name for path in one._run.checkpoints.iterdir()] == ["dense-00.ckpt"]


def test_zeros_are_those_of_the_masks(tiny: ClassificationTask, tmp_path: Path) -> None:
    one = trainer(tiny, tmp_path)
    dense = one.train(Phase("dense-00", "dense", 1, 1e-2))
    rung = one.train(Phase("rung-01", "rung 1", 2, 1e-2, ig.Gradual(sparsity=0.75)), start=dense)
    assert rung.masks is not None
    active = sum(int(mask.sum()) for mask in rung.masks.values())
    assert active == 60  # a quarter of 12 * 16 + 16 * 3
    for name, mask in rung.masks.items():
        assert torch.equal(rung.model[name] != 0, mask)
    higher = one.train(Phase("rung-02", "rung 2", 2, 1e-2, ig.Gradual(sparsity=0.9)), start=rung)
    assert higher.masks is not None
    for name, mask in higher.masks.items():
        assert not bool((mask & ~rung.masks[name]).any())


def test_the_teachers_answers_count_as_much_as_the_recipe_says(tiny: ClassificationTask, tmp_path: Path) -> None:
    """With no weight of their own the labels do not matter: wrong ones train the same model."""

    def shuffled(self: Any, split: str) -> tuple[Tensor, Tensor]:
        x, y = type(tiny).data(self, split)  # type: ignore[arg-type]
        return x, ((y + 1) % 3 if split == "train" else y)

    ends = []
    for name, task in (("right", tiny), ("wrong", like(tiny, data=shuffled))):
        (tmp_path / name).mkdir()
        one = trainer(task, tmp_path / name, distill=1.0)
        teacher = Ensemble([one.new_model()])
        ends.append(one.train(Phase("rung-01", "rung", 1, 1e-2, ig.Gradual(sparsity=0.5)), teacher=teacher))
    assert torch.equal(ends[0].model["0.weight"], ends[1].model["0.weight"])


# -- what cannot go on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_one_sentence_and_finished_phases_stay(
    tiny: ClassificationTask, tmp_path: Path, value: float
) -> None:
    one = trainer(tiny, tmp_path)
    one.train(Phase("dense-00", "dense", 1, 1e-2))
    broken = trainer(like(tiny, loss=lambda _, answer, __: answer.sum() * value), tmp_path)
    start = broken.train(Phase("dense-00", "dense", 1, 1e-2))
    with pytest.raises(TrainingError, match=r"The loss became nan|The loss became (-)?inf") as problem:
        broken.train(Phase("dense-01", "dense, cycle 1", 1, 1e-2), start=start)
    assert "in dense, cycle 1, epoch 1, step 0; lower the learning rate" in str(problem.value)
    assert (tmp_path / "checkpoints" / "dense-00.ckpt").is_file()


def test_weights_that_are_not_finite_are_seen_before_they_are_kept(tiny: ClassificationTask, tmp_path: Path) -> None:
    def forward(_: Any, model: nn.Module, batch: Any) -> Tensor:
        answer: Tensor = model(batch[0])
        # Finite itself, with a gradient that is not.
        return answer + 0 * torch.sqrt((answer * 0).clamp(min=0)).sum()

    batch = next(iter(tiny.batches()))
    one = trainer(like(tiny, forward=forward, batches=lambda _: [batch]), tmp_path)
    with pytest.raises(TrainingError, match=r"The numbers of 0\.weight are not finite after dense, epoch 1"):
        one.train(Phase("dense-00", "dense", 2, 1e-2))
    assert not list((tmp_path / "checkpoints").iterdir())


def test_an_empty_loader_is_missing_data(tiny: ClassificationTask, tmp_path: Path) -> None:
    def data(*_: Any) -> tuple[Tensor, Tensor]:
        return torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64)

    with pytest.raises(DataError, match="The training data of clouds is empty"):
        trainer(like(tiny, data=data), tmp_path).train(Phase("dense-00", "dense", 1, 1e-2))


def test_passes_of_different_lengths_are_refused(tiny: ClassificationTask, tmp_path: Path) -> None:
    used: list[int] = []

    def batches(self: Any) -> Iterable[Any]:
        used.append(1)
        return list(type(tiny).batches(self))[len(used) - 1 :]

    with pytest.raises(DataError, match="gave 4 batches, and 5 are expected of every pass"):
        trainer(like(tiny, batches=batches), tmp_path).train(Phase("dense-00", "dense", 2, 1e-2))


def test_a_loader_without_length_is_counted(tiny: ClassificationTask, tmp_path: Path) -> None:
    task = like(tiny, batches=lambda self: (batch for batch in type(tiny).batches(self)))
    assert trainer(task, tmp_path).train(Phase("dense-00", "dense", 1, 1e-2)).steps == 5


def test_what_is_no_model_is_refused(tiny: ClassificationTask, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\(\) returned int"):
        trainer(like(tiny, model=lambda _: 3), tmp_path).new_model()
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UsageError, match="no trainable parameter"):
        build_optimizer(frozen, Recipe(), 0.1)


# -- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimizers(name: str, kind: type) -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), Recipe(optimizer=name, weight_decay=0.25), 0.5)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 0.25


@pytest.mark.parametrize("total", [1, 2, 7, 100, 1000])
def test_the_rate_rises_to_its_peak_and_falls_to_nought(total: int) -> None:
    rates = [rate_at(step, total) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1
    peak = rates.index(1)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if total >= 100:
        assert peak <= 0.05 * total
        assert rates[-1] < 0.001


def test_distillation_by_hand() -> None:
    answer, wanted = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    expected = 0.0
    for a, w in zip(answer.double(), wanted.double(), strict=True):
        p, q = torch.softmax(w / 2, 0), torch.softmax(a / 2, 0)
        expected += float((p * (p / q).log()).sum()) * 4 / 2
    assert float(distillation_loss(answer, wanted, temperature=2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(distillation_loss(wanted, wanted, temperature=3.0)) == pytest.approx(0, abs=1e-7)


def test_every_generator_is_seeded_by_name() -> None:
    def draw(*key: Any) -> tuple[float, float, float]:
        seed_everything(*key)
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    assert draw(0, "rung-01", 2) == draw(0, "rung-01", 2)
    for other in ((1, "rung-01", 2), (0, "rung-02", 2), (0, "rung-01", 3)):
        assert all(a != b for a, b in zip(draw(0, "rung-01", 2), draw(*other), strict=True))


def test_several_listeners_hear_the_same() -> None:
    heard: list[str] = []

    class Ear(Listener):
        def planned(self, epochs: int) -> None:
            heard.append(f"planned {epochs}")

        def phase_started(self, phase: str, epochs: int, done: int) -> None:
            heard.append(f"{phase} {epochs} {done}")

        def step_taken(self, phase: str, share: float) -> None:
            heard.append(f"{phase} {share}")

        def epoch_ended(self, event: EpochEnd) -> None:
            heard.append(event.phase)

        def rung_measured(self, sparsity: float, metric: float, holds: bool) -> None:
            heard.append(f"{sparsity} {metric} {holds}")

        def closed(self) -> None:
            heard.append("closed")

    both = Listeners([Ear(), Listener(), Ear()])
    both.planned(3)
    both.phase_started("dense", 3, 1)
    both.step_taken("dense", 0.5)
    both.epoch_ended(EpochEnd("rung", 1, 2, 3, 0.1, 0.2, 0.3, {}))
    both.rung_measured(0.5, 0.9, True)
    both.closed()
    expected = ["planned 3", "dense 3 1", "dense 0.5", "rung", "0.5 0.9 True", "closed"]
    assert heard == [entry for entry in expected for _ in range(2)]
