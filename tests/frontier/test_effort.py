"""The operations that training is said to cost, against the formulas of Evci et al. 2020, appendix H."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from frontier.test_training import trainer
from isogrid.frontier.effort import samples_of
from isogrid.frontier.ensemble import Ensemble
from isogrid.frontier.phases import Phase
from isogrid.masks import find_targets
from isogrid.schedules import OneShot
from isogrid.sparsify import ACDC, Movement, RigL, Static, TopKAST, Trigger
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


def test_rigl_pays_for_dense_gradients_at_its_updates_only(tiny: ClassificationTask, tmp_path: Path) -> None:
    one = trainer(tiny, tmp_path)
    method = RigL(sparsity=0.75, delta_t=2)
    trained = one.train(Phase("rigl", "rigl", 4, 1e-2, method))
    size, batch = 2 * weights(tiny), samples(tiny) * 4 / trained.steps
    updates = sum(1 for step in range(2, trained.steps, 2) if step < 0.75 * trained.steps)
    # 3 f_S a step, and f_D - f_S more where gradients of pruned weights are looked at; the paper skips the optimiser
    # at an update, so that its average is over delta_t + 1 (Evci et al. 2020, appendix H).
    wanted = batch * size * (3 * 0.25 * trained.steps + 0.75 * updates)
    assert trained.flops == pytest.approx(wanted, rel=0.02)


def test_topkast_pays_for_the_set_that_it_trains(tiny: ClassificationTask, tmp_path: Path) -> None:
    whole = 2 * weights(tiny) * samples(tiny)
    one = trainer(tiny, tmp_path)
    wide = one.train(Phase("wide", "wide", 1, 1e-2, TopKAST(sparsity=0.75, backward_sparsity=0.25)))
    assert wide.flops == pytest.approx((2 * 0.25 + 0.75) * whole, rel=0.02)
    closed = one.train(Phase("closed", "closed", 1, 1e-2, TopKAST(sparsity=0.75, explore_until=0.0)))
    assert closed.flops == pytest.approx(3 * 0.25 * whole, rel=0.02)


def test_movement_pays_for_all_gradients(tiny: ClassificationTask, tmp_path: Path) -> None:
    whole = 2 * weights(tiny) * samples(tiny)
    one = trainer(tiny, tmp_path)
    method = Movement(sparsity=0.5, schedule=OneShot(at=0.999))
    assert one.train(Phase("dense", "dense", 1, 1e-2, method)).flops == pytest.approx(3 * whole)
    trained = one.train(Phase("movement", "movement", 4, 1e-2, Movement(sparsity=0.5, schedule=OneShot(at=0.5))))
    assert trained.flops == pytest.approx(4 * whole * (0.5 * 3 + 0.5 * (2 * 0.5 + 1)), rel=0.02)


def test_acdc_pays_by_its_phases(tiny: ClassificationTask, tmp_path: Path) -> None:
    one = trainer(tiny, tmp_path)
    method = ACDC(sparsity=0.75, phase=0.2)
    trained = one.train(Phase("acdc", "acdc", 4, 1e-2, method))
    phases = [*method.phases(trained.steps), (trained.steps, False)]
    steps = sum((end - start) * (0.25 if tight else 1) for (start, tight), (end, _) in itertools.pairwise(phases))
    assert trained.flops == pytest.approx(3 * 2 * weights(tiny) * samples(tiny) * 4 / trained.steps * steps, rel=0.02)
