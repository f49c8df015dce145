"""Sparse regularisation: subgradient against proximal step, and what every method promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.methods import TrainingMethodConformance
from conformance.training import OPTIMIZERS, STEPS, Run, batch, loss_of, small_model
from isogrid.errors import SparsifierError, UnsupportedError, UsageError
from isogrid.penalties import L1, L2, ElasticNet, GroupLasso, Penalty
from isogrid.schedules import Linear
from isogrid.sparsify import Regularized, Sparsifier, Static


class TestL1(TrainingMethodConformance):
    method = Regularized(penalty=L1(0.05))
    makes_zeros = True
    least = 0.1


class TestL1BySubgradient(TrainingMethodConformance):
    method = Regularized(penalty=L1(0.05), proximal=False, sparsity=0.5)


class TestL1ToASparsity(TrainingMethodConformance):
    method = Regularized(penalty=L1(0.02), sparsity=0.7, strength=Linear(end=0.5))
    makes_zeros = True
    overshoot = 0.3


class TestL2(TrainingMethodConformance):
    method = Regularized(penalty=L2(0.05), sparsity=0.5)


class TestElasticNet(TrainingMethodConformance):
    method = Regularized(penalty=ElasticNet(0.05, 0.05))
    makes_zeros = True
    least = 0.1


class TestGroupLasso(TrainingMethodConformance):
    method = Regularized(penalty=GroupLasso(0.05, over="channel"), sparsity=0.5)
    makes_zeros = True
    overshoot = 0.5


def one_step(method: Regularized, lr: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """The first layer's weight before and after one step of SGD, and the gradient of the loss alone."""
    model = small_model()
    before = model[0].weight.detach().clone()
    (gradient,) = torch.autograd.grad(loss_of(model, 0), [model[0].weight])
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    sparsifier = Sparsifier(model, method, optimizer=optimizer, total_steps=STEPS)
    (loss_of(model, 0) + sparsifier.penalty()).backward()
    optimizer.step()
    return before, gradient, model[0].weight.detach()


def test_the_subgradient_step_descends() -> None:
    before, gradient, after = one_step(Regularized(penalty=L1(0.2), proximal=False))
    assert torch.allclose(after, before - 0.1 * (gradient + 0.2 * before.sign()), atol=1e-7)


def test_the_proximal_step_follows_a_step_of_the_loss_alone() -> None:
    before, gradient, after = one_step(Regularized(penalty=L1(0.2)))
    moved = before - 0.1 * gradient
    assert torch.allclose(after, moved.sign() * (moved.abs() - 0.02).clamp(min=0), atol=1e-7)
    assert bool((after == 0).any())


@pytest.mark.parametrize("penalty", [L1(0.05), L2(0.05), ElasticNet(0.05, 0.05), GroupLasso(0.05)])
@pytest.mark.parametrize("proximal", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum", "adam"])
def test_only_proximal_steps_give_exact_zeros_and_l2_gives_none(
    penalty: Penalty, proximal: bool, optimizer: str
) -> None:
    run = Run(Regularized(penalty=penalty, proximal=proximal), optimizer, steps=150).finish()
    sparsity = run.sparsifier.finalize()["sparsity"]
    assert (sparsity > 0.05) == (proximal and penalty.makes_zeros)
    if not (proximal and penalty.makes_zeros):
        assert sparsity == 0


def test_the_subgradient_only_comes_near() -> None:
    near, exact = (
        Run(Regularized(penalty=L1(0.05), proximal=proximal), "sgd", steps=400).finish() for proximal in (False, True)
    )
    zeros = exact.model[0].weight == 0
    assert int(zeros.sum()) > 50
    close = near.model[0].weight[zeros].abs()
    assert float(close.detach().median()) < 2 * 0.05 * 0.05  # within a few steps of lr * lambda
    assert bool((close > 0).all())


def test_group_lasso_takes_whole_rows_or_channels() -> None:
    rows = Run(Regularized(penalty=GroupLasso(0.1)), "sgd", steps=200).finish().model[0].weight
    assert 0 < int((rows == 0).all(dim=1).sum()) == int((rows == 0).any(dim=1).sum())
    channels = Run(Regularized(penalty=GroupLasso(0.1, over="channel")), "adam", steps=200).finish().model[2].weight
    assert 0 < int((channels == 0).all(dim=0).sum()) == int((channels == 0).any(dim=0).sum())


# -- the threshold that belongs to the optimiser -----------------------------------------------------------------------

CURVATURE = torch.tensor([[0.5, 1.0, 2.0, 4.0, 1.0, 1.0]])
CENTRE = torch.tensor([[1.0, -0.8, 0.1, -0.5, 0.05, 2.0]])
LAM = 0.3

CONVERGING: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, dampening=0.3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.9, 0.99)),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.02, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "rmsprop_momentum": lambda p: torch.optim.RMSprop(p, lr=0.003, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.5),
}


@pytest.mark.parametrize("name", CONVERGING)
def test_the_fixed_point_minimises_loss_plus_penalty(name: str) -> None:
    layer = nn.Linear(6, 1, bias=False)
    optimizer = CONVERGING[name](layer.parameters())
    steps = 1500
    sparsifier = Sparsifier(layer, L1(LAM), optimizer=optimizer, total_steps=steps)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.01, 1 - step / steps))
    for _ in range(steps):
        (0.5 * CURVATURE * (layer.weight - CENTRE).square()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
    # The minimum of h/2 (w - c)^2 + lam |w| is c softened by lam / h.
    wanted = CENTRE.sign() * (CENTRE.abs() - LAM / CURVATURE).clamp(min=0)
    assert torch.allclose(layer.weight.detach(), wanted, atol=5e-3), layer.weight
    assert torch.equal(layer.weight == 0, wanted == 0)
    assert sparsifier.finalize()["sparsity"] == pytest.approx(2 / 6)


# -- strength and its end ----------------------------------------------------------------------------------------------


def test_the_strength_multiplies_the_penalty() -> None:
    run = Run(Regularized(penalty=L2(0.5), strength=Linear(end=0.5)), "sgd")
    full = sum(float(L2(0.5).value(layer.weight)) for layer in run.state.layers)
    assert run.sparsifier.penalty().item() == 0
    for step in run.steps(until=30):
        full = sum(float(L2(0.5).value(layer.weight)) for layer in run.state.layers)
        assert run.sparsifier.penalty().item() == pytest.approx(min(1.0, step / 20) * full, rel=1e-5)


@pytest.mark.parametrize("proximal", [True, False])
def test_with_a_sparsity_the_penalty_ends_with_the_ramp(proximal: bool) -> None:
    run = Run(Regularized(penalty=L1(0.1), proximal=proximal, sparsity=0.5), "sgd")
    for _ in run.steps(until=STEPS * 3 // 4):
        pass
    assert run.sparsifier.penalty().item() == 0
    before = {layer.name: layer.weight.clone() for layer in run.state.layers}
    (gradient,) = torch.autograd.grad(loss_of(run.model, run.state.step), [run.model[0].weight])
    run.step()
    layer = run.state.layers[0]
    wanted = (before["0.weight"] - 0.05 * gradient).masked_fill(layer.pruned, 0)
    assert torch.allclose(layer.weight, wanted, atol=1e-7)


def test_the_zeros_of_the_proximal_step_end_as_masks() -> None:
    run = Run(L1(0.05), "sgd", steps=100).finish()
    assert run.state.mask_sparsity == 0
    sparsity = run.sparsifier.finalize()["sparsity"]
    assert sparsity > 0.1
    assert run.state.mask_sparsity == sparsity
    assert all(torch.equal(mask, run.model.get_parameter(name) != 0) for name, mask in run.sparsifier.masks.items())


def test_weights_that_took_no_step_are_not_shrunk() -> None:
    model = small_model()
    before = model[2].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Sparsifier(model, L1(1.0), optimizer=optimizer, total_steps=10)
    model[0](torch.randn(3, 12)).sum().backward()
    optimizer.step()
    assert torch.equal(model[2].weight, before)
    assert bool((model[0].weight == 0).any())


def test_forgetting_the_penalty_is_an_error_before_anything_moves() -> None:
    run = Run(L2(0.1))
    before = run.model[0].weight.detach().clone()
    loss_of(run.model, 0).backward()
    with pytest.raises(SparsifierError, match=r"step 0 did not contain it; add sparsifier\.penalty\(\) to the loss"):
        run.optimizer.step()
    assert torch.equal(run.model[0].weight, before)


@pytest.mark.parametrize("optimizer", [torch.optim.Rprop, torch.optim.NAdam, torch.optim.ASGD])
def test_optimisers_of_unknown_step_size_need_the_subgradient(optimizer: Any) -> None:
    model = small_model()
    with pytest.raises(UnsupportedError, match=f"step size of {optimizer.__name__}; accepted are SGD, Adam"):
        Sparsifier(model, L1(0.1), optimizer=optimizer(model.parameters()), total_steps=10)
    method = Regularized(penalty=L1(0.1), proximal=False)
    Sparsifier(model, method, optimizer=optimizer(model.parameters()), total_steps=10)


def test_only_penalties_are_penalties() -> None:
    with pytest.raises(UsageError, match=r"penalty=0\.1; accepted are L1, L2, ElasticNet and GroupLasso"):
        Regularized(penalty=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("penalty", [GroupLasso(1e-3), L1(1e-3)])
def test_what_no_gradient_has_reached_is_not_taken_to_zero_at_once(penalty: Penalty, optimizer: str) -> None:
    """Neither an input that is always zero nor a weight that is pruned may take its row along."""
    model = small_model()
    masks = {"0.weight": torch.ones(16, 12, dtype=torch.bool), "2.weight": torch.ones(4, 16, dtype=torch.bool)}
    masks["0.weight"][:, 3] = False
    trained = OPTIMIZERS[optimizer](model.parameters())
    sparsifier = Sparsifier(
        model, Static(sparsity=0.0), optimizer=trained, total_steps=20, penalty=penalty, masks=masks
    )
    for step in range(20):
        x, y = batch(step)
        nn.functional.mse_loss(model(x * (torch.arange(12) != 5)), y).backward()
        trained.step()
        trained.zero_grad()
    rows = sparsifier.state.layers[0].weight.abs().sum(1)
    assert bool((rows > 0).all())
    assert float(sparsifier.state.layers[0].weight[:, 5].abs().mean()) > 0.05
