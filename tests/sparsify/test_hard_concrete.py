"""L0 regularisation: the published update, who sees sampled weights, and what every method promises."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import OPTIMIZERS, STEPS, Run, assert_same_bits, batch, loss_of, small_model
from isogrid.errors import PatternError, TargetError, UsageError
from isogrid.patterns import Row, active_count
from isogrid.schedules import Cubic
from isogrid.sparsify import HardConcrete, Sparsifier


class TestHardConcrete(TrainingMethodConformance):
    method = HardConcrete(lam=0.3, gate_lr=0.2)
    forgets = True
    least = 0.03


class TestHardConcreteWithAnAim(TrainingMethodConformance):
    method = HardConcrete(sparsity=0.6, lam=0.01, delta_t=3)
    forgets = True


class TestHardConcreteOfRows(TrainingMethodConformance):
    method = HardConcrete(sparsity=0.5, pattern="row", lam=0.1, gate_lr=0.5, drop_rate=0.3)
    forgets = True
    overshoot = 0.05
    least = 0.5


class TestHardConcreteThatWantsMoreThanItsAim(TrainingMethodConformance):
    method = HardConcrete(sparsity=0.4, lam=10.0, gate_lr=1.0)
    forgets = True


GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3


def noise(run: Run, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    drawn = [run.state.rng("gates", layer).random(shape) for layer, shape in zip(run.state.layers, shapes, strict=True)]
    return [torch.from_numpy(uniform.clip(1e-6, 1 - 1e-6)) for uniform in drawn]


def train_reference(run: Run, method: HardConcrete, optimizer: str, steps: int, *, rows: bool) -> list[Tensor]:
    """The method as one module with gates inside, trained in step with `run` on the same noise."""
    model = small_model()
    layers: list[nn.Linear] = [model[0], model[2]]  # type: ignore[list-item]
    dense = [nn.Parameter(layer.weight.detach().clone()) for layer in layers]
    gates = [nn.Parameter(layer.buffers["log_alpha"].detach().clone()) for layer in run.state.layers]
    others = [layer.bias for layer in layers]
    moved = OPTIMIZERS[optimizer]([*dense, *others])
    moved.add_param_group({"params": gates, "weight_decay": 0.0})

    def spread(values: Tensor) -> Tensor:
        return values[:, None] if rows else values

    for step in range(steps):
        inputs, wanted = batch(step)
        effective = []
        for weight, log_alpha, uniform in zip(dense, gates, noise(run, [tuple(g.shape) for g in gates]), strict=True):
            u = uniform.float()
            s = torch.sigmoid((torch.log(u) - torch.log(1 - u) + log_alpha) / BETA)
            effective.append(weight * spread(nn.functional.hardtanh(s * (ZETA - GAMMA) + GAMMA, 0, 1)))
        hidden = torch.tanh(nn.functional.linear(inputs, effective[0], others[0]))
        loss = nn.functional.mse_loss(nn.functional.linear(hidden, effective[1], others[1]), wanted)
        for weight, log_alpha in zip(dense, gates, strict=True):
            behind = weight.numel() / log_alpha.numel()
            loss = loss + method.lam * behind * torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA)).sum()
        loss.backward()
        moved.step()
        moved.zero_grad()
        for log_alpha in gates:
            log_alpha.data.clamp_(math.log(1e-2), math.log(1e2))
        run.step()
    return [
        (weight * spread((torch.sigmoid(g) * (ZETA - GAMMA) + GAMMA).clamp(0, 1))).detach()
        for weight, g in zip(dense, gates, strict=True)
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum", "adam", "adamw"])
@pytest.mark.parametrize("pattern", ["unstructured", "row"])
def test_it_is_the_published_update(pattern: str, optimizer: str) -> None:
    method = HardConcrete(lam=0.01, pattern=pattern, drop_rate=0.6)
    run = Run(method, optimizer)
    wanted = train_reference(run, method, optimizer, 25, rows=pattern == "row")
    for layer, weight in zip(run.state.layers, wanted, strict=True):
        assert torch.allclose(layer.weight, weight, atol=2e-6)
        assert torch.equal(layer.mask, layer.weight != 0)


def test_the_gates_of_a_deterministic_training_get_their_own_gradient() -> None:
    run = Run(HardConcrete(lam=0.0), "sgd")
    run.model.eval()  # as when batch norms are frozen
    log_alpha = run.state.layers[0].buffers["log_alpha"].clone().requires_grad_()
    weight = run.state.layers[0].buffers["dense"] * (torch.sigmoid(log_alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
    inputs, wanted = batch(0)
    hidden = torch.tanh(nn.functional.linear(inputs, weight, run.model[0].bias))
    nn.functional.mse_loss(run.model[2](hidden), wanted).backward()
    run.step()
    assert log_alpha.grad is not None
    assert torch.allclose(
        run.state.layers[0].buffers["log_alpha"], log_alpha.detach() - 0.05 * log_alpha.grad, atol=1e-7
    )


# -- who sees what -----------------------------------------------------------------------------------------------------


def test_sampled_weights_stand_from_the_forward_pass_to_the_step() -> None:
    run = Run(HardConcrete(lam=0.01))
    settled = run.model[0].weight.detach().clone()
    loss = loss_of(run.model, 0)
    sampled = run.model[0].weight.detach().clone()
    assert not torch.equal(sampled, settled)
    loss.backward()
    assert torch.equal(run.model[0].weight, sampled)
    assert not bool(run.model[0].weight.grad[sampled == 0].any())
    loss_of(run.model, 1)
    assert torch.equal(run.model[0].weight, sampled)  # one sample a step
    run.optimizer.step()
    assert torch.equal(run.model[0].weight, run.sparsifier.method.effective(run.state, run.state.layers[0]))  # type: ignore[attr-defined]
    run.optimizer.zero_grad()
    loss_of(run.model, 1)
    assert not torch.equal(run.model[0].weight == 0, sampled == 0)


def test_evaluation_between_forward_and_backward_disturbs_nothing() -> None:
    run, plain = Run(HardConcrete(lam=0.01), "adam"), Run(HardConcrete(lam=0.01), "adam")
    x, _ = batch(77)
    run.model.eval()
    before = run.model(x).detach()
    run.model.train()
    for _ in range(3):
        loss = loss_of(run.model, run.state.step)
        run.model.eval()
        seen = run.model(x).detach()
        run.model.train()
        with torch.no_grad():
            assert torch.equal(run.model(x), seen)
        if run.state.step == 0:
            assert torch.equal(seen, before)
        loss.backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        plain.step()
    assert_same_bits(run.bits(), plain.bits())


def test_several_losses_of_one_step_see_one_sample() -> None:
    run, together = Run(HardConcrete(), "sgd"), Run(HardConcrete(), "sgd")
    one, other = loss_of(run.model, 0), loss_of(run.model, 1)
    one.backward()
    other.backward()
    (loss_of(together.model, 0) + loss_of(together.model, 1)).backward()
    for a, b in zip(run.model.parameters(), together.model.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6)  # type: ignore[arg-type]


def test_a_compiled_model_trains_as_the_plain_one() -> None:
    torch._dynamo.reset()
    plain = Run(HardConcrete(lam=0.01), "adam", steps=6).finish()
    model = small_model()
    run = Run(HardConcrete(lam=0.01), "adam", steps=6, model=torch.compile(model, backend="aot_eager", fullgraph=True))
    run.finish()
    for name, weight in model.state_dict().items():
        assert torch.allclose(weight, plain.model.state_dict()[name], atol=1e-6)
    torch._dynamo.reset()
    later = small_model()
    run = Run(HardConcrete(lam=0.01), "adam", steps=6, model=later)
    compiled = torch.compile(later, backend="aot_eager")
    for step in range(6):
        loss_of(compiled, step).backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
    for name, weight in later.state_dict().items():
        assert torch.allclose(weight, plain.model.state_dict()[name], atol=1e-6)


def test_an_unfinished_forward_pass_leaves_no_sampled_weight_behind() -> None:
    run = Run(HardConcrete(lam=0.01)).finish()
    loss_of(run.model, 0)
    run.sparsifier.finalize()
    assert torch.equal(run.model[0].weight, run.sparsifier.method.effective(run.state, run.state.layers[0]))  # type: ignore[attr-defined]
    assert not run.model._forward_pre_hooks
    assert not run.model._forward_hooks
    held = copy.deepcopy(run.model.state_dict())
    loss_of(run.model, 1)
    assert_same_bits(run.model.state_dict(), held)


# -- gates -------------------------------------------------------------------------------------------------------------


def test_whole_groups_are_gated() -> None:
    run = Run(HardConcrete(pattern="row", lam=0.003, gate_lr=0.5), "adam")
    assert run.state.layers[0].buffers["log_alpha"].shape == (16,)
    for _ in run.steps():
        for layer in run.state.layers:
            assert Row().conforms(layer.mask.numpy())
    assert 0 < run.sparsifier.sparsity < 1


def test_the_gates_of_a_transposed_convolution_follow_its_output_axis() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, HardConcrete(pattern="row"), optimizer=optimizer, total_steps=2)
    group = sparsifier.state.layers[0].buffers["group"]
    assert torch.equal(group, torch.arange(3)[None, :, None, None].expand(2, 3, 2, 2))


@pytest.mark.parametrize("lam", [0.0, 5.0])
def test_an_aim_is_never_passed_and_reached_by_the_end_of_the_ramp(lam: float) -> None:
    run = Run(HardConcrete(sparsity=0.5, lam=lam, gate_lr=1.0, delta_t=4, schedule=Cubic(end=0.5)), "adam")
    for step in run.steps():
        assert run.state.active >= active_count(WEIGHTS, 0.5)
        if step >= STEPS // 2:
            assert run.state.active == active_count(WEIGHTS, 0.5)
            assert run.state.layers[0].buffers.keys() == {"dense"}
    assert round(run.sparsifier.finalize()["sparsity"] * WEIGHTS) == 128


def test_folded_gates_are_sampled_no_more() -> None:
    run = Run(HardConcrete(sparsity=0.5, schedule=Cubic(end=0.5)))
    for _ in run.steps(until=STEPS // 2):
        pass
    settled = run.model[0].weight.detach().clone()
    loss_of(run.model, 0)
    assert torch.equal(run.model[0].weight, settled)


def test_telemetry_shows_the_expected_sparsity() -> None:
    shown = Run(HardConcrete(drop_rate=0.9)).sparsifier.telemetry()
    closed = 1 - 1 / (1 + math.exp(-(math.log(0.1 / 0.9) - BETA * math.log(-GAMMA / ZETA))))
    assert shown["expected_sparsity"] == pytest.approx(closed, abs=5e-3)


@pytest.mark.parametrize("pattern", ["1:4", "fan_in"])
def test_patterns_of_equally_many_zeros_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match=f"HardConcrete cannot hold pattern {pattern}"):
        Run(HardConcrete(pattern=pattern))


def test_frozen_layers_are_refused() -> None:
    model = small_model()
    model[0].requires_grad_(False)
    with pytest.raises(TargetError, match=r"gates of 0\.weight, which is frozen; leave it out with ignore="):
        Run(HardConcrete(), model=model)


@pytest.mark.parametrize(
    "options",
    [
        {"lam": -1.0}, {"lam": math.inf}, {"drop_rate": 0.0}, {"drop_rate": 1.0}, {"beta": 0.0}, {"gamma": 0.0},
        {"zeta": 1.0}, {"gate_lr": 0.0}, {"delta_t": 0}, {"gate_lr": math.nan},
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"HardConcrete got {name}="):
        HardConcrete(**options)
