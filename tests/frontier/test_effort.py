"""The operations that training is said to cost, against the formulas of Evci et al. 2020, appendix H."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from frontier.test_training import trainer
from isogrid.frontier.effort import samples_of
from isogrid.frontier.ensemble import Ensemble
from isogrid.frontier.training import Phase
from isogrid.masks import find_targets
from isogrid.sparsify import Static, Trigger
from isogrid.tasks import ClassificationTask


def weights(task: ClassificationTask) -> int:
    return sum(target.parameter.numel() for target in find_targets(task.model()))


def samples(task: ClassificationTask) -> int:
    return len(task.data("train")[0])


def test_dense_training_costs_three_passes_a_sample(tiny: ClassificationTask, tmp_path: Path) -> None:
    one = trainer(tiny, tmp_path)
    trained = one.train(Phase("dense-00", "dense", 2, 1e-2))
    assert trained.flops == one.flops == 3 * 2 * weights(tiny) * samples(tiny) * 2
    again = one.train(Phase("dense-01", "more", 1, 1e-2), start=trained)
    assert again.flops == one.flops == 1.5 * trained.flops


def test_masks_take_their_share_off(tiny: ClassificationTask, tmp_path: Path) -> None:
    one = trainer(tiny, tmp_path)
    trained = one.train(Phase("static", "static", 1, 1e-2, Static(sparsity=0.75)))
    active = sum(int(mask.sum()) for mask in (trained.masks or {}).values())
    assert active == round(0.25 * weights(tiny))
    assert trained.flops == pytest.approx(3 * 2 * active * samples(tiny))


def test_dense_gradients_and_teachers_cost_what_they_cost(tiny: ClassificationTask, tmp_path: Path) -> None:
    one = trainer(tiny, tmp_path, distill=0.5)
    whole = 2 * weights(tiny) * samples(tiny)
    # A quantile of nought prunes nothing: the forward pass stays dense, and so does the gradient.
    watching = Trigger(sparsity=0.5, quantile=0.0, revive=1.0)
    taught = one.train(Phase("taught", "taught", 1, 1e-2, watching), teacher=Ensemble([tiny.model(), tiny.model()]))
    assert taught.flops == pytest.approx((3 + 2) * whole, rel=0.02)


def test_a_phase_that_is_read_from_its_checkpoint_cost_the_same(tiny: ClassificationTask, tmp_path: Path) -> None:
    first = trainer(tiny, tmp_path)
    trained = first.train(Phase("dense-00", "dense", 2, 1e-2))
    again = trainer(tiny, tmp_path)
    assert again.train(Phase("dense-00", "dense", 2, 1e-2)).flops == trained.flops
    assert again.flops == first.flops


def test_samples_of_a_batch() -> None:
    assert samples_of((torch.zeros(7, 2), torch.zeros(7))) == 7
    assert samples_of(torch.zeros(5, 2)) == 5
    assert samples_of({"a": "text", "b": torch.zeros(3)}) == 3
    assert samples_of([torch.tensor(1.0)]) == 1
