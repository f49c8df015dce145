"""Movement pruning, hard and soft: the published update, the ramp, and what every method promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import OPTIMIZERS, STEPS, Run, batch, loss_of, small_model
from isogrid.errors import TargetError, TrainingError, UsageError
from isogrid.patterns import active_count
from isogrid.schedules import Constant, Cubic, OneShot
from isogrid.sparsify import Movement, SoftMovement

RATES = {"sgd_momentum": 0.02, "adam": 5e-3}


class TestMovement(TrainingMethodConformance):
    method = Movement(sparsity=0.75, delta_t=3)
    forgets = True


class TestMovementOfBlocks(TrainingMethodConformance):
    method = Movement(sparsity=0.5, pattern="block:2x2", allocation="global", score_lr=None)
    forgets = True


class TestSoftMovement(TrainingMethodConformance):
    method = SoftMovement(lam=30.0, score_lr=0.2)
    forgets = True
    least = 0.05


class TestSoftMovementWithAnAim(TrainingMethodConformance):
    method = SoftMovement(sparsity=0.7, lam=30.0, score_lr=0.2, delta_t=3)
    forgets = True


class _Masked(torch.autograd.Function):
    """A step of the mask's score that passes gradients straight through."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG004
        return mask.to(score.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]  # noqa: ARG004
        return gradient, None


def reference(
    optimizer: str, steps: int, masks: Any, *, lam: Any = lambda _: 0.0, ratio: float = 1.0
) -> tuple[nn.Module, list[Tensor]]:
    """The method as one module with masks inside, scores as parameters of the same optimiser."""
    model = small_model()
    layers: list[nn.Linear] = [model[0], model[2]]  # type: ignore[list-item]
    dense = [nn.Parameter(layer.weight.detach().clone()) for layer in layers]
    scores = [nn.Parameter(torch.zeros_like(weight)) for weight in dense]
    others = [layer.bias for layer in layers]
    moved = OPTIMIZERS[optimizer]([*dense, *others])
    rate = moved.param_groups[0]["lr"] * ratio
    moved.add_param_group({"params": scores, "lr": rate, "weight_decay": 0.0})
    used = [torch.ones_like(weight, dtype=torch.bool) for weight in dense]
    for step in range(steps):
        inputs, wanted = batch(step)
        effective = [w * _Masked.apply(s, mask) for w, s, mask in zip(dense, scores, used, strict=True)]
        hidden = torch.tanh(nn.functional.linear(inputs, effective[0], others[0]))
        loss = nn.functional.mse_loss(nn.functional.linear(hidden, effective[1], others[1]), wanted)
        loss = loss + lam(step / STEPS) * torch.stack([torch.sigmoid(s).mean() for s in scores]).mean()
        loss.backward()
        moved.step()
        moved.zero_grad()
        used = [masks(score.detach(), (step + 1) / STEPS) for score in scores]
    for layer, weight, mask in zip(layers, dense, used, strict=True):
        layer.weight.data.copy_(weight.data * mask)
    return model, [score.detach() for score in scores]


def top(score: Tensor, sparsity: float) -> Tensor:
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[score.flatten().argsort(descending=True, stable=True)[: active_count(score.numel(), sparsity)]] = True
    return mask.reshape(score.shape)


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum", "sgd_nesterov", "adam", "adamw"])
def test_it_is_the_published_update(optimizer: str) -> None:
    method = Movement(sparsity=0.75, schedule=OneShot(at=0.25), delta_t=1, score_lr=None)
    run = Run(method, optimizer)
    for _ in run.steps(until=25):
        pass
    wanted, scores = reference(optimizer, 25, lambda score, done: top(score, 0.75 * (done >= 0.25)))
    for layer, score in zip(run.state.layers, scores, strict=True):
        assert torch.allclose(layer.buffers["score"], score, atol=1e-6)
    for name, weight in run.model.state_dict().items():
        assert torch.allclose(weight, wanted.state_dict()[name], atol=1e-6), name


@pytest.mark.parametrize("optimizer", ["sgd_momentum", "adam"])
def test_the_soft_one_is_the_published_update(optimizer: str) -> None:
    method = SoftMovement(lam=40.0, tau=0.45, schedule=Cubic(), score_lr=5 * RATES[optimizer])
    run = Run(method, optimizer)
    for _ in run.steps(until=25):
        pass
    ramp = Cubic()
    wanted, scores = reference(
        optimizer, 25, lambda score, done: torch.sigmoid(score) > 0.45 * ramp.ramp(done),
        lam=lambda done: 40.0 * ramp.ramp(done), ratio=5.0,
    )  # fmt: skip
    assert 0 < run.state.mask_sparsity < 1
    for layer, score in zip(run.state.layers, scores, strict=True):
        assert torch.allclose(layer.buffers["score"], score, atol=1e-6)
    for name, weight in run.model.state_dict().items():
        assert torch.allclose(weight, wanted.state_dict()[name], atol=1e-6), name


def test_sparsity_follows_the_cubic_ramp() -> None:
    run = Run(Movement(sparsity=0.75, delta_t=4, allocation="global"))
    for step in run.steps():
        due = (step - step % 4) / STEPS
        wanted = 0.75 - 0.75 * (1 - min(1.0, max(0.0, (due - 0.1) / 0.7))) ** 3
        assert run.state.active == active_count(WEIGHTS, wanted), step


def test_a_pruned_weight_comes_back_with_the_value_it_had() -> None:
    run = Run(Movement(sparsity=0.7, schedule=OneShot(at=0.1), delta_t=1, score_lr=0.5), "sgd")
    back = 0
    for _ in range(STEPS):
        before = {layer.name: (layer.mask.clone(), layer.buffers["dense"].clone()) for layer in run.state.layers}
        run.step()
        for layer in run.state.layers:
            mask, dense = before[layer.name]
            again = layer.mask & ~mask
            back += int(again.sum())
            assert torch.equal(layer.weight[again], dense[again])  # plain SGD does not move what has no gradient
    assert back > 0


def test_masks_follow_the_scores_to_the_step_before_the_last() -> None:
    run = Run(Movement(sparsity=0.5, schedule=Constant(), delta_t=1, score_lr=0.5), "adam")
    for step in run.steps():
        assert run.state.active == active_count(WEIGHTS, 0.5)
        if step == STEPS - 1:
            held = run.sparsifier.masks
    assert all(torch.equal(held[name], mask) for name, mask in run.sparsifier.masks.items())


def test_scores_rise_where_weights_move_away_from_zero() -> None:
    run = Run(Movement(sparsity=0.5, schedule=OneShot(at=1.0)), "sgd")
    before = [layer.buffers["dense"].clone() for layer in run.state.layers]
    run.step()
    for layer, was in zip(run.state.layers, before, strict=True):
        step = (layer.buffers["dense"] - was) * was.sign()
        assert bool((layer.buffers["score"][step > 0] > 0).all())
        assert bool((layer.buffers["score"][step < 0] < 0).all())


def test_its_scores_follow_the_schedule_of_the_learning_rate() -> None:
    run = Run(Movement(sparsity=0.5, schedule=OneShot(at=1.0), score_lr=0.1), "sgd")
    (gradient,) = torch.autograd.grad(loss_of(run.model, 0), [run.model[0].weight])
    wanted = -0.1 * 0.25 * gradient * run.model[0].weight.detach()
    run.optimizer.param_groups[0]["lr"] /= 4
    run.step()
    assert torch.allclose(run.state.layers[0].buffers["score"], wanted, atol=1e-8)


def test_an_aim_is_never_passed_and_reached_by_the_end_of_the_ramp() -> None:
    for lam in (0.0, 1000.0):
        run = Run(SoftMovement(sparsity=0.6, lam=lam, score_lr=0.5, delta_t=4, schedule=Cubic(end=0.5)), "adam")
        for step in run.steps():
            assert run.state.active >= active_count(WEIGHTS, 0.6)
            if step >= STEPS // 2:
                assert run.state.active == active_count(WEIGHTS, 0.6)
                assert run.state.numbers["closed"] is True
                assert run.state.layers[0].buffers.keys() == {"dense"}


def test_weights_that_are_not_finite_are_reported_and_not_ranked() -> None:
    run = Run(Movement(sparsity=0.5, schedule=Cubic(), delta_t=1))
    run.step()
    run.state.layers[0].buffers["dense"][3, 3] = math.inf
    with pytest.raises(TrainingError, match=r"0\.weight are not finite at step 2"):
        run.step()


@pytest.mark.parametrize("options", [{"score_lr": 0.0}, {"score_lr": math.nan}, {"delta_t": 0}])
@pytest.mark.parametrize("kind", [Movement, SoftMovement])
def test_numbers_out_of_range_are_refused(kind: Any, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"{kind.__name__} got {name}="):
        kind(sparsity=0.8, **options)


@pytest.mark.parametrize("options", [{"tau": 0.0}, {"tau": 1.0}, {"lam": -1.0}, {"lam": math.inf}, {"pattern": "row"}])
def test_the_soft_one_refuses_more(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="SoftMovement got"):
        SoftMovement(**options)


@pytest.mark.parametrize("kind", [Movement, SoftMovement])
def test_scores_of_a_frozen_layer_cannot_be_learned(kind: Any) -> None:
    model = small_model()
    model[0].weight.requires_grad_(False)
    with pytest.raises(TargetError, match=rf"{kind.__name__} cannot learn the scores of 0\.weight, which is frozen"):
        Run(kind(sparsity=0.5), model=model)
