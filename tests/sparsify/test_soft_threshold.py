"""Soft threshold reparameterisation: the published update, the aim, and what every method promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import OPTIMIZERS, STEPS, Run, batch, small_model
from isogrid.errors import TrainingError, UsageError
from isogrid.patterns import active_count
from isogrid.schedules import Cubic, OneShot
from isogrid.sparsify import SoftThreshold, Sparsifier


class TestSoftThreshold(TrainingMethodConformance):
    method = SoftThreshold(s_init=-3.0, threshold_lr=0.1, decay=0.3)
    forgets = True
    least = 0.1


class TestSoftThresholdWithAnAim(TrainingMethodConformance):
    method = SoftThreshold(sparsity=0.6, s_init=-4.0, delta_t=3)
    forgets = True


class TestSoftThresholdThatWantsMoreThanItsAim(TrainingMethodConformance):
    method = SoftThreshold(sparsity=0.3, function="exp", s_init=-2.0, decay=1.0, threshold_lr=0.5)
    forgets = True


def reference(method: SoftThreshold, optimizer: str, steps: int) -> tuple[nn.Module, list[Tensor]]:
    """The method as one module that thresholds inside, s as parameters of the same optimiser."""
    model = small_model()
    layers: list[nn.Linear] = [model[0], model[2]]  # type: ignore[list-item]
    dense = [nn.Parameter(layer.weight.detach().clone()) for layer in layers]
    thresholds = [nn.Parameter(torch.tensor(method.s_init)) for _ in dense]
    others = [layer.bias for layer in layers]
    moved = OPTIMIZERS[optimizer]([*dense, *others, *thresholds])
    function = torch.sigmoid if method.function == "sigmoid" else torch.exp

    def sparse(weight: Tensor, s: Tensor) -> Tensor:
        return torch.sign(weight) * torch.relu(torch.abs(weight) - function(s))

    for step in range(steps):
        inputs, wanted = batch(step)
        effective = [sparse(weight, s) for weight, s in zip(dense, thresholds, strict=True)]
        hidden = torch.tanh(nn.functional.linear(inputs, effective[0], others[0]))
        nn.functional.mse_loss(nn.functional.linear(hidden, effective[1], others[1]), wanted).backward()
        moved.step()
        moved.zero_grad()
    for layer, weight, s in zip(layers, dense, thresholds, strict=True):
        layer.weight.data.copy_(sparse(weight, s))
    return model, [s.detach() for s in thresholds]


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum", "sgd_nesterov", "adam", "adamw"])
@pytest.mark.parametrize("function", ["sigmoid", "exp"])
def test_it_is_the_published_update(function: str, optimizer: str) -> None:
    method = SoftThreshold(function=function, s_init=-2.5)
    run = Run(method, optimizer)
    assert run.sparsifier.sparsity > 0.1
    for _ in run.steps(until=25):
        pass
    wanted, thresholds = reference(method, optimizer, 25)
    for layer, s in zip(run.state.layers, thresholds, strict=True):
        assert torch.allclose(layer.buffers["s"], s, atol=1e-6)
        assert float(s) != method.s_init
    for name, weight in run.model.state_dict().items():
        assert torch.allclose(weight, wanted.state_dict()[name], atol=1e-6), name
        if name in run.sparsifier.masks:
            assert torch.equal(weight != 0, wanted.state_dict()[name] != 0)


def test_weight_decay_draws_the_thresholds_up() -> None:
    run = Run(SoftThreshold(s_init=-20.0, decay=10.0), "sgd")
    thresholds = [float(run.state.layers[0].buffers["s"])]
    thresholds += [float(run.state.layers[0].buffers["s"]) for _ in run.steps(until=3)]
    assert thresholds[:3] == pytest.approx([-20.0, -10.0, -5.0], abs=1e-2)


@pytest.mark.parametrize("decay", [0.0, 2.0])
def test_an_aim_is_never_passed_and_reached_by_the_end_of_the_ramp(decay: float) -> None:
    method = SoftThreshold(sparsity=0.5, s_init=-6.0, decay=decay, delta_t=5, schedule=Cubic(end=0.5))
    run = Run(method, "sgd")
    for step in run.steps():
        assert run.state.active >= active_count(WEIGHTS, 0.5)
        if step >= STEPS // 2:
            assert run.state.active == active_count(WEIGHTS, 0.5)
            assert run.state.numbers["closed"] is True
    assert round(run.sparsifier.finalize()["sparsity"] * WEIGHTS) == 128


def test_folding_the_thresholds_changes_no_weight_that_stays() -> None:
    folded = Run(SoftThreshold(sparsity=0.5, s_init=-3.0, schedule=OneShot(at=0.5)), "sgd")
    plain = Run(SoftThreshold(s_init=-3.0), "sgd")
    for _ in range(STEPS // 2):
        folded.step()
        plain.step()
    for name, mask in folded.sparsifier.masks.items():
        weight = folded.model.get_parameter(name)
        assert torch.allclose(weight[mask], plain.model.get_parameter(name)[mask], atol=1e-6)
        assert bool((weight[mask] != 0).all())
    assert folded.state.layers[0].buffers.keys() == {"dense"}


def test_what_is_pruned_first_lies_farthest_below_its_threshold() -> None:
    run = Run(SoftThreshold(sparsity=0.5, s_init=-3.0, schedule=OneShot(at=0.5)), "adam")
    for _ in run.steps(until=STEPS // 2 - 1):
        pass
    run.step()
    twin = Run(SoftThreshold(s_init=-3.0), "adam")
    for _ in twin.steps(until=STEPS // 2):
        pass
    worth = {layer.name: twin.sparsifier.method.worth(twin.state, layer) for layer in twin.state.layers}  # type: ignore[attr-defined]
    least = min(float(worth[name][mask].min()) for name, mask in run.sparsifier.masks.items())
    most = max(float(worth[name][~mask].max()) for name, mask in run.sparsifier.masks.items())
    assert least >= most


def test_weights_that_are_not_finite_are_reported() -> None:
    run = Run(SoftThreshold())
    run.step()
    run.state.layers[0].buffers["dense"][3, 3] = float("nan")
    with pytest.raises(TrainingError, match=r"0\.weight are not finite at step 2"):
        run.step()


def test_telemetry_shows_the_thresholds() -> None:
    run = Run(SoftThreshold(s_init=-3.0))
    assert run.sparsifier.telemetry()["mean_threshold"] == pytest.approx(0.0474, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"s_init": float("inf")}, {"threshold_lr": 0.0}, {"decay": -1.0}, {"pattern": "row"}, {"delta_t": 0},
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="SoftThreshold got"):
        SoftThreshold(**options)


def test_an_unknown_function_is_refused_with_what_is_accepted() -> None:
    with pytest.raises(UsageError, match=r"'sigmod' \(did you mean 'sigmoid'\?\): accepted are sigmoid, exp"):
        SoftThreshold(function="sigmod")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("function", ["sigmoid", "exp"])
def test_an_aim_is_never_passed_however_coarse_the_weights(dtype: torch.dtype, function: str) -> None:
    method = SoftThreshold(
        sparsity=0.5, s_init=-6.0, decay=2.0, threshold_lr=0.5, function=function, schedule=Cubic(end=0.8)
    )
    model = small_model().to(dtype)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = Sparsifier(model, method, optimizer=optimizer, total_steps=STEPS)
    for step in range(STEPS):
        inputs, wanted = batch(step)
        nn.functional.mse_loss(model(inputs.to(dtype)).float(), wanted).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert sparsifier.state.active >= active_count(WEIGHTS, 0.5)
