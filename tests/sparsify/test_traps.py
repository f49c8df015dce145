"""Training-time truth: each trap that undoes zeros, or that zeros spoil, as it was met in real loops."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from conformance.training import OPTIMIZERS, STEPS, Run, assert_effective, assert_same_bits, loss_of, small_model
from isogrid.errors import SparsifierError
from isogrid.masks import count_zeros
from isogrid.sparsify import Gradual, Sparsifier, Static, Trigger


def test_what_one_plain_step_does_to_a_pruned_model() -> None:
    run = Run(Static(sparsity=0.9)).finish()
    assert run.sparsifier.finalize()["sparsity"] > 0.9
    loss_of(run.model, 0).backward()
    torch.optim.SGD(run.model.parameters(), lr=0.01).step()
    assert count_zeros(run.model)["sparsity"] < 0.5  # hence a sparsifier; what is left is fed or read by nobody


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", [Gradual(sparsity=0.8, delta_t=3), Static(sparsity=0.8)])
def test_no_optimiser_moves_a_pruned_weight(method: Any, optimizer: str) -> None:
    run = Run(method, optimizer)
    moved = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    for _ in run.steps():
        assert_effective(run)
    assert run.sparsifier.finalize()["sparsity"] == pytest.approx(0.8, abs=0.002)
    assert all(not torch.equal(p, moved[name]) for name, p in run.model.named_parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_active_weights_move_as_without_a_sparsifier(optimizer: str) -> None:
    run = Run(Gradual(sparsity=0.0), optimizer).finish()
    plain = small_model()
    alone = OPTIMIZERS[optimizer](plain.parameters())
    for step in range(STEPS):
        loss_of(plain, step).backward()
        alone.step()
        alone.zero_grad()
    assert_same_bits(run.model.state_dict(), plain.state_dict())


def test_momentum_and_decay_that_were_there_before_the_masks_are_cleared() -> None:
    model = small_model()
    optimizer = OPTIMIZERS["sgd_momentum"](model.parameters())
    for step in range(5):
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    sparsifier = Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=5)
    mask = sparsifier.masks["0.weight"]
    velocity = optimizer.state[model[0].weight]["momentum_buffer"]
    assert not velocity[~mask].any()
    assert bool(velocity[mask].all())


def test_parameter_groups_of_their_own_rate_and_decay() -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(
        [
            {"params": [model[0].weight], "lr": 1e-2, "weight_decay": 0.5},
            {"params": [model[2].weight], "lr": 1e-3, "weight_decay": 0.0},
            {"params": [model[0].bias, model[2].bias], "weight_decay": 0.0},
        ],
        lr=1e-4,
    )
    sparsifier = Sparsifier(model, Static(sparsity=0.6), optimizer=optimizer, total_steps=10)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[1e-2, 1e-3, 1e-3], total_steps=10)
    for step in range(10):
        loss_of(model, step).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        for name, mask in sparsifier.masks.items():
            assert not model.get_parameter(name)[~mask].any()
    sparsifier.finalize()


def test_a_group_added_later_trains_a_layer_that_was_frozen() -> None:
    model = small_model()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.02, momentum=0.9)
    sparsifier = Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=8)
    for step in range(8):
        if step == 4:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters())})
        loss_of(model, step).backward()
        optimizer.step()
        mask = sparsifier.masks["0.weight"]
        assert not model[0].weight[~mask].any()
        if step >= 4:
            assert not optimizer.state[model[0].weight]["momentum_buffer"][~mask].any()
        optimizer.zero_grad()
    sparsifier.finalize()


@pytest.mark.parametrize("foreach", [True, False])
def test_pruned_weights_do_not_inflate_the_clipping_norm(foreach: bool) -> None:
    run = Run(Static(sparsity=0.9))
    loss_of(run.model, 0).backward()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), 1e-3, foreach=foreach)

    plain = small_model()
    plain.load_state_dict(run.model.state_dict())
    loss_of(plain, 0).backward()
    dense = nn.utils.get_total_norm([p.grad for p in plain.parameters() if p.grad is not None])
    kept = [
        p.grad if name not in run.sparsifier.masks else p.grad * run.sparsifier.masks[name]
        for name, p in plain.named_parameters()
        if p.grad is not None
    ]
    assert norm == nn.utils.get_total_norm(kept)
    assert norm < 0.9 * dense


def test_infinite_gradients_of_pruned_weights_do_not_come_through() -> None:
    layer = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    mask = torch.tensor([[True, False]])
    Sparsifier(layer, Gradual(sparsity=0.0), optimizer=optimizer, total_steps=5, masks={"weight": mask})
    (layer.weight * torch.tensor([[1.0, float("inf")]])).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[1.0, 0.0]]
    optimizer.step()
    assert bool(layer.weight.isfinite().all())


def test_accumulated_gradients_are_masked_after_each_batch() -> None:
    run, whole = Run(Static(sparsity=0.7), "adam"), Run(Static(sparsity=0.7), "adam")
    for _ in range(5):
        for _ in range(4):
            (loss_of(run.model, run.state.step) / 4).backward()
            assert_effective(run)
        run.optimizer.step()
        run.optimizer.zero_grad()
        whole.step()
    for name, weight in run.model.state_dict().items():
        assert torch.allclose(weight, whole.model.state_dict()[name], atol=1e-5)


# -- gradient scalers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("unscale", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_that_the_scaler_skips_is_none(fused: bool, unscale: bool, kind: Any) -> None:
    def train(skips: bool) -> tuple[nn.Module, Sparsifier]:
        model = small_model()
        optimizer = kind(model.parameters(), lr=0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=10**6)
        method = Trigger(sparsity=0.8, delta_t=2, patience=1)
        sparsifier = Sparsifier(model, method, optimizer=optimizer, total_steps=20, scaler=scaler)
        for step in range(20):
            for poison in [float("inf"), float("nan")] * (skips and step % 3 == 0):
                held = copy.deepcopy(model.state_dict())
                masks = sparsifier.masks
                scaler.scale(loss_of(model, step) * poison).backward()
                if unscale:
                    scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update(64.0)
                optimizer.zero_grad()
                assert sparsifier.state.step == step
                assert_same_bits(model.state_dict(), held)
                assert_same_bits(sparsifier.masks, masks)
            scaler.scale(loss_of(model, step)).backward()
            if unscale:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return model, sparsifier

    model, sparsifier = train(skips=True)
    undisturbed, other = train(skips=False)
    assert_same_bits(model.state_dict(), undisturbed.state_dict())
    assert_same_bits(sparsifier.masks, other.masks)
    assert sparsifier.finalize()["sparsity"] >= 0.8


def test_autocast() -> None:
    run = Run(Gradual(sparsity=0.8), "adam")
    for step in range(STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(run.model, step)
        loss.backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        assert_effective(run)
    assert run.sparsifier.finalize()["sparsity"] >= 0.8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floating_types(dtype: torch.dtype) -> None:
    run = Run(Trigger(sparsity=0.8, delta_t=2), "sgd", model=small_model().to(dtype))
    for step in range(STEPS):
        x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step)).to(dtype)
        run.model(x).square().mean().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        assert_effective(run)
    assert run.sparsifier.finalize()["sparsity"] >= 0.8
    assert run.model[0].weight.dtype == dtype


# -- copies ------------------------------------------------------------------------------------------------------------


def test_a_deep_copy_of_the_model_is_plain_and_apart() -> None:
    run = Run(Gradual(sparsity=0.8))
    for _ in run.steps(until=20):
        pass
    twin = copy.deepcopy(run.model)
    assert not twin[0].weight._post_accumulate_grad_hooks
    assert_same_bits(twin.state_dict(), run.model.state_dict())
    loss_of(twin, 0).backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert count_zeros(twin)["sparsity"] < 0.5 * run.sparsifier.sparsity
    assert_effective(run)
    run.finish().sparsifier.finalize()


def test_a_deep_copied_optimiser_is_noticed_and_can_be_attached() -> None:
    run = Run(Static(sparsity=0.5))
    model, optimizer = copy.deepcopy((run.model, run.optimizer))
    assert not optimizer._optimizer_step_post_hooks
    sparsifier = Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=STEPS, adopt=True)
    for step in range(STEPS):
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    run.finish()
    assert_same_bits(model.state_dict(), run.model.state_dict())
    sparsifier.finalize()

    # The other half of the trap: a new optimiser, no hooks, the old model.
    run = Run(Static(sparsity=0.5)).finish()
    unhooked = torch.optim.SGD(run.model.parameters(), lr=0.1, weight_decay=0.1, momentum=0.9)
    unhooked.load_state_dict(run.optimizer.state_dict())
    run.model[0].weight.data[run.state.layers[0].pruned] = 0.1  # what its momentum would do in time
    with pytest.raises(SparsifierError, match=r"a deep-copied optimiser loses its hooks: attach\(\) it"):
        run.sparsifier.finalize()
    run.state.hold_zeros()
    run.sparsifier.attach(unhooked)
    assert not run.optimizer._optimizer_step_post_hooks
    loss_of(run.model, 0).backward()
    unhooked.step()
    run.sparsifier.finalize()


def test_a_whole_model_is_saved_and_loaded_plain() -> None:
    run = Run(Static(sparsity=0.5))
    run.step()
    file = io.BytesIO()
    torch.save(run.model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert_same_bits(loaded.state_dict(), run.model.state_dict())
    assert not loaded[0].weight._post_accumulate_grad_hooks
    assert run.model.state_dict().keys() == small_model().state_dict().keys()


@pytest.mark.parametrize("average", [None, torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)])
def test_averaged_copies_get_their_zeros_back(average: Any) -> None:
    run = Run(Gradual(sparsity=0.8))
    averaged = torch.optim.swa_utils.AveragedModel(run.model, multi_avg_fn=average)
    for _ in run.steps():
        averaged.update_parameters(run.model)
    assert count_zeros(averaged)["sparsity"] < 0.5 * run.sparsifier.sparsity  # the trap
    run.sparsifier.apply_to(averaged)
    for name, mask in run.sparsifier.masks.items():
        assert torch.equal(averaged.module.get_parameter(name) != 0, mask)
    run.sparsifier.finalize()


def test_a_sparsifier_attached_to_an_averaged_models_source_leaves_the_copy_alone() -> None:
    model = small_model()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    run = Run(Static(sparsity=0.5), model=model)
    assert bool((averaged.module[0].weight != 0).all())
    run.finish()


# -- compiled models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Gradual(sparsity=0.8), Trigger(sparsity=0.8, revive=2.0)])
def test_a_compiled_model_trains_as_the_plain_one(method: Any) -> None:
    torch._dynamo.reset()
    plain = Run(method, "adam", steps=20).finish()
    model = small_model()
    compiled = torch.compile(model, backend="aot_eager")
    run = Run(method, "adam", steps=20, model=compiled)
    assert run.sparsifier.targets == ["0.weight", "2.weight"]
    run.finish()
    assert_effective(run)
    assert_same_bits(model.state_dict(), plain.model.state_dict())
    run.sparsifier.finalize()


def test_a_model_compiled_before_or_after_holds_the_same() -> None:
    torch._dynamo.reset()
    model = small_model()
    run = Run(Gradual(sparsity=0.8), "adam", steps=20, model=model)
    compiled = torch.compile(model, backend="aot_eager")
    for step in range(20):
        loss_of(compiled, step).backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
    assert_same_bits(model.state_dict(), Run(Gradual(sparsity=0.8), "adam", steps=20).finish().model.state_dict())


def test_checkpointed_layers() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)  # type: ignore[no-any-return]

    run = Run(Gradual(sparsity=0.8), "adam", model=Checkpointed()).finish()
    plain = Run(Gradual(sparsity=0.8), "adam").finish()
    assert torch.equal(run.model.get_parameter("inner.0.weight"), plain.model[0].weight)


def test_gradients_of_gradients() -> None:
    run = Run(Static(sparsity=0.5), "sgd")
    loss = loss_of(run.model, 0)
    (gradient,) = torch.autograd.grad(loss, [run.model[0].weight], create_graph=True)
    (loss + gradient.square().sum()).backward()
    assert_effective(run)
    run.optimizer.step()
    assert_effective(run)
