"""Dense weights behind the effective ones: the traps of real loops, and how what is learned beside them moves."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from conformance.training import OPTIMIZERS, STEPS, Run, assert_effective, assert_same_bits, loss_of, small_model
from isogrid.errors import SparsifierError
from isogrid.masks import Target
from isogrid.penalties import L1, L2
from isogrid.sparsify import (
    Aware,
    Gradual,
    HardConcrete,
    Method,
    Movement,
    ShadowMethod,
    SoftMovement,
    SoftThreshold,
    Sparsifier,
    TopKAST,
    methods,
)
from isogrid.sparsify.learner import Learner, learned
from isogrid.sparsify.state import SparseLayer, SparseState

METHODS: dict[str, ShadowMethod] = {
    "topkast": TopKAST(sparsity=0.75, delta_t=2, lam=0.01),
    "movement": Movement(sparsity=0.75, delta_t=2, score_lr=0.1),
    "soft_movement": SoftMovement(lam=30.0, score_lr=0.2, delta_t=2),
    "str": SoftThreshold(s_init=-2.5),
    "l0": HardConcrete(lam=0.02, gate_lr=0.2),
    "aimed": HardConcrete(sparsity=0.5, lam=0.02, gate_lr=0.2, delta_t=2),
}
every = pytest.mark.parametrize("name", METHODS)


# -- optimisers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@every
def test_every_optimiser_moves_the_dense_weights(name: str, optimizer: str) -> None:
    run = Run(METHODS[name], optimizer, steps=12)
    start = [layer.buffers["dense"].clone() for layer in run.state.layers]
    for _ in run.steps():
        assert_effective(run)
    for layer, before in zip(run.state.layers, start, strict=True):
        assert not torch.equal(layer.buffers["dense"], before)
        assert bool(layer.buffers["dense"].isfinite().all())
    run.sparsifier.finalize()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_nothing_pruned_weights_move_as_without_a_sparsifier(optimizer: str) -> None:
    for method in (TopKAST(sparsity=0.0, lam=0.0), Movement(sparsity=0.0)):
        run = Run(method, optimizer, steps=12).finish()
        plain = small_model()
        alone = OPTIMIZERS[optimizer](plain.parameters())
        for step in range(12):
            loss_of(plain, step).backward()
            alone.step()
            alone.zero_grad()
        assert_same_bits(run.model.state_dict(), plain.state_dict())


def test_weight_decay_acts_on_dense_weights_that_are_pruned() -> None:
    run = Run(Movement(sparsity=0.5), "adamw", masks=None)
    for _ in run.steps(until=STEPS // 2):
        pass
    pruned = {layer.name: layer.pruned.clone() for layer in run.state.layers}
    before = {layer.name: layer.buffers["dense"][pruned[layer.name]].clone() for layer in run.state.layers}
    run.step()
    for layer in run.state.layers:
        assert not torch.equal(layer.buffers["dense"][pruned[layer.name]], before[layer.name])
        assert any(bool(moment[layer.pruned].any()) for moment in run.state.optimizer_state(layer))


@every
def test_a_closure_is_refused(name: str) -> None:
    run = Run(METHODS[name])
    with pytest.raises(SparsifierError, match="looks at gradients before the weights move"):
        run.optimizer.step(lambda: loss_of(run.model, 0))


@every
def test_a_new_optimiser_can_be_attached(name: str) -> None:
    run = Run(METHODS[name], "sgd")
    for _ in run.steps(until=5):
        pass
    twin = copy.deepcopy(run.optimizer)
    twin.param_groups[0]["params"] = run.optimizer.param_groups[0]["params"]
    run.sparsifier.attach(twin)
    assert not run.optimizer._optimizer_step_post_hooks
    run.optimizer = twin
    undisturbed = Run(METHODS[name], "sgd").finish()
    assert_same_bits(run.finish().model.state_dict(), undisturbed.model.state_dict())


# -- gradient scalers, clipping, accumulation --------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("unscale", [True, False])
@every
def test_a_step_that_the_scaler_skips_is_none(name: str, unscale: bool, fused: bool) -> None:
    def train(skips: bool) -> tuple[nn.Module, Sparsifier]:
        model = small_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=10**6)
        sparsifier = Sparsifier(model, METHODS[name], optimizer=optimizer, total_steps=8, scaler=scaler)
        for step in range(8):
            for poison in [float("inf"), float("nan")] * (skips and step % 3 == 0):
                held = {layer.name: copy.deepcopy(layer.buffers) for layer in sparsifier.state.layers}
                scaler.scale(loss_of(model, step) * poison).backward()
                if unscale:
                    scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update(64.0)
                optimizer.zero_grad()
                assert sparsifier.state.step == step
                for layer in sparsifier.state.layers:
                    assert_same_bits(layer.buffers, held[layer.name])
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
    sparsifier.finalize()


@pytest.mark.parametrize("fused", [True, False])
@every
def test_a_scaler_changes_nothing(name: str, fused: bool) -> None:
    trained = []
    for enabled in (True, False):
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=enabled)
        Sparsifier(model, METHODS[name], optimizer=optimizer, total_steps=8, scaler=scaler)
        for step in range(8):
            scaler.scale(loss_of(model, step)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        trained.append(model.state_dict())
    assert_same_bits(*trained)  # a power of two costs no bit


@every
def test_clipping_scales_all_that_is_learned_alike(name: str) -> None:
    # A constant loss factor of a quarter, or a norm that comes to the same: both must lead to the same step.
    clipped, scaled = Run(METHODS[name], "sgd"), Run(METHODS[name], "sgd")
    loss_of(clipped.model, 0).backward()
    norm = float(nn.utils.get_total_norm([p.grad for p in clipped.model.parameters() if p.grad is not None]))
    nn.utils.clip_grad_norm_(clipped.model.parameters(), norm / 4)
    clipped.optimizer.step()
    (loss_of(scaled.model, 0) / 4).backward()
    scaled.optimizer.step()
    for layer, other in zip(clipped.state.layers, scaled.state.layers, strict=True):
        for key, value in layer.buffers.items():
            assert torch.allclose(value.double(), other.buffers[key].double(), atol=1e-6), key


@every
def test_what_a_clipping_norm_counts_is_what_is_used(name: str) -> None:
    run = Run(METHODS[name], "sgd")
    for _ in run.steps(until=STEPS // 2):
        pass
    loss_of(run.model, 0).backward()
    plain = small_model()
    plain.load_state_dict(run.model.state_dict())  # with the weights that the forward pass saw
    loss_of(plain, 0).backward()
    for layer in run.state.layers:
        used = METHODS[name].used(run.state, layer)
        wanted = plain.get_parameter(layer.name).grad
        assert wanted is not None
        if used is not None:
            assert not bool(used.all())
            wanted = wanted.masked_fill(~used, 0)
        assert torch.equal(run.model.get_parameter(layer.name).grad, wanted)  # type: ignore[arg-type]


@every
def test_accumulated_gradients_add_up(name: str) -> None:
    run, whole = Run(METHODS[name], "sgd", steps=12), Run(METHODS[name], "sgd", steps=12)
    for _ in range(12):
        for _ in range(4):
            (loss_of(run.model, run.state.step) / 4).backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        whole.step()
    for key, weight in run.model.state_dict().items():
        assert torch.allclose(weight, whole.model.state_dict()[key], atol=1e-5), key


# -- who sees the effective weights ------------------------------------------------------------------------------------


@every
def test_copies_files_and_averages_hold_effective_weights(name: str) -> None:
    run = Run(METHODS[name], "adam")
    averaged = torch.optim.swa_utils.AveragedModel(
        run.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.0)
    )
    for _ in run.steps(until=STEPS // 2):
        averaged.update_parameters(run.model)
    effective = {layer.name: METHODS[name].effective(run.state, layer) for layer in run.state.layers}
    file = io.BytesIO()
    torch.save(run.model, file)
    file.seek(0)
    twin = copy.deepcopy(run.model)
    loaded = torch.load(file, weights_only=False)
    for key, weight in effective.items():
        for model in (run.model, twin, loaded, averaged.module):
            assert torch.equal(model.get_parameter(key), weight)
    # Copies are plain: no pass through them samples anything or moves the original.
    for model in (twin, loaded, averaged):
        loss_of(model, 0).backward()
    assert torch.equal(twin.get_parameter("0.weight"), effective["0.weight"])
    assert_effective(run)
    run.finish().sparsifier.apply_to(averaged)
    for key, mask in run.sparsifier.masks.items():
        assert not averaged.module.get_parameter(key)[~mask].any()


@every
def test_dense_weights_are_saved_with_the_sparsifier_and_nowhere_else(name: str) -> None:
    run = Run(METHODS[name])
    run.step()
    assert run.model.state_dict().keys() == small_model().state_dict().keys()
    saved = run.sparsifier.state_dict()["buffers"]["0.weight"]
    assert torch.equal(saved["dense"], run.state.layers[0].buffers["dense"])
    assert saved["dense"] is not run.state.layers[0].buffers["dense"]


@every
def test_loading_an_earlier_state_forgets_what_came_later(name: str) -> None:
    run = Run(METHODS[name], "adam")
    saved = copy.deepcopy(run.save())
    once = copy.deepcopy(run.finish().bits())
    assert_same_bits(run.load(saved).finish().bits(), once)


@every
def test_masks_that_are_set_from_outside_hold_at_once(name: str) -> None:
    run = Run(METHODS[name])
    run.step()
    masks = {key: mask.clone() for key, mask in run.sparsifier.masks.items()}
    masks["0.weight"][:4] = False
    dense = run.state.layers[0].buffers["dense"].clone()
    run.state.set_masks(masks)
    assert_effective(run)
    assert torch.equal(run.state.layers[0].buffers["dense"], dense)
    run.finish().sparsifier.finalize()


@every
def test_adopted_zeros_never_come_back(name: str) -> None:
    start = {"0.weight": torch.ones(16, 12, dtype=torch.bool), "2.weight": torch.ones(4, 16, dtype=torch.bool)}
    start["0.weight"][:, ::4] = False
    run = Run(METHODS[name], "adam", masks=start)
    for _ in run.steps():
        assert not bool(run.sparsifier.masks["0.weight"][:, ::4].any())
        assert not bool(run.model[0].weight[:, ::4].any())
    run.sparsifier.finalize()


@every
def test_a_change_that_the_next_step_would_undo_is_reported(name: str) -> None:
    run = Run(METHODS[name])
    run.step()
    run.model.load_state_dict(run.model.state_dict())  # changes nothing
    run.step()
    with torch.no_grad():
        run.model[0].weight[run.state.layers[0].mask] *= 0.5
    loss_of(run.model.eval(), 0).backward()
    kind = type(METHODS[name]).__name__
    with pytest.raises(SparsifierError, match=rf"0\.weight were changed outside the optimiser's step, and {kind}"):
        run.optimizer.step()


@every
def test_a_step_that_raises_leaves_effective_weights(name: str) -> None:
    run = Run(METHODS[name], penalty=L2(0.1))
    run.model.eval()
    loss_of(run.model, 0).backward()
    with pytest.raises(SparsifierError, match="did not contain it"):
        run.optimizer.step()
    assert_effective(run)


# -- other models and penalties ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@every
def test_other_floating_types(name: str, dtype: torch.dtype) -> None:
    run = Run(METHODS[name], "sgd", model=small_model().to(dtype), steps=12)
    for step in range(12):
        x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step)).to(dtype)
        run.model(x).square().mean().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        assert_effective(run)
    run.sparsifier.finalize()
    assert run.model[0].weight.dtype == dtype
    for layer in run.state.layers:
        for key, value in layer.buffers.items():
            if key in ("score", "s", "log_alpha"):
                assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", ["topkast", "str"])
def test_a_frozen_layer_stays_as_it_is_but_for_its_mask(name: str) -> None:
    model = small_model()
    model[0].requires_grad_(False)
    weight = model[0].weight.detach().clone()
    run = Run(METHODS[name], "adam", model=model).finish()
    assert torch.equal(run.state.layers[0].buffers["dense"], weight)
    run.sparsifier.finalize()


@pytest.mark.parametrize("penalty", [L1(0.02), L2(0.02)])
@every
def test_a_penalty_goes_with_any_of_them(name: str, penalty: Any) -> None:
    run, plain = Run(METHODS[name], "adam", penalty=penalty), Run(METHODS[name], "adam").finish()
    for _ in run.steps():
        assert_effective(run)
    run.sparsifier.finalize()
    assert run.model[0].weight.abs().sum() < plain.model[0].weight.abs().sum()


@every
def test_a_recurrent_model_trains(name: str) -> None:
    torch.manual_seed(0)
    model = nn.LSTM(4, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier = Sparsifier(model, METHODS[name], optimizer=optimizer, total_steps=8)
    for step in range(8):
        x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(step))
        model(x)[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    sparsifier.finalize()


def test_methods_without_dense_weights_have_none() -> None:
    for method in (Gradual(sparsity=0.5), Aware(sparsity=0.5)):
        assert not isinstance(method, ShadowMethod)
        run = Run(method)
        run.step()
        assert run.state.effective is None
        assert all("dense" not in layer.buffers for layer in run.state.layers)


# -- the learner -------------------------------------------------------------------------------------------------------


def learning(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> tuple[SparseLayer, SparseState]:
    layer = SparseLayer(Target("weight", weight, "linear"), torch.ones_like(weight, dtype=torch.bool))
    return layer, SparseState([layer], 10, 0, optimizer)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    "build",
    [
        lambda p, d: torch.optim.SGD(p, lr=0.1, weight_decay=d),
        lambda p, d: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=d),
        lambda p, d: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=d),
        lambda p, d: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=d, maximize=True),
        lambda p, d: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=d),
        lambda p, d: torch.optim.AdamW(p, lr=0.1, weight_decay=d),
    ],
)
def test_it_moves_a_learned_parameter_as_the_optimiser_moves_its_own(build: Any, decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 3, generator=generator))
    optimizer = build([weight], decay)
    layer, state = learning(optimizer, weight)
    Learner(state).start(layer, "score", weight.detach().clone())
    for _ in range(6):
        weight.grad = torch.randn(3, 3, generator=generator)
        Learner(state).step(layer, "score", weight.grad, decay=None)
        optimizer.step()
        assert torch.allclose(layer.buffers["score"], weight, atol=1e-6)


@pytest.mark.parametrize(
    ("group", "rate"),
    [
        ({}, 0.25), ({"initial_lr": 0.2}, 0.125), ({"initial_lr": 0.01, "max_lr": 0.4}, 0.0625),
        ({"initial_lr": 0.0}, 0.5),
    ],
)  # fmt: skip
def test_a_rate_of_its_own_follows_the_schedule_of_the_group(group: dict[str, float], rate: float) -> None:
    weight = nn.Parameter(torch.zeros(1, 1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    layer, state = learning(optimizer, weight)
    learner = Learner(state)
    learner.start(layer, "score", torch.zeros(1, 1))
    optimizer.param_groups[0].update(group, lr=0.05)
    assert learner.rate(layer, 0.5) == pytest.approx(rate)
    assert learner.rate(layer, None) == 0.05


def test_a_layer_that_no_optimiser_holds_learns_nothing() -> None:
    weight = nn.Parameter(torch.zeros(1, 1))
    layer, state = learning(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), weight)
    Learner(state).start(layer, "score", torch.zeros(1, 1))
    Learner(state).step(layer, "score", torch.ones(1, 1), lr=0.5)
    assert layer.buffers["score"].item() == 0


def test_learned_parameters_are_no_coarser_than_float32() -> None:
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        layer, _ = learning(
            torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), nn.Parameter(torch.zeros(2, dtype=dtype))
        )
        assert learned(layer, torch.zeros(2)).dtype == wanted


def test_every_shadow_method_is_tried_here() -> None:
    kinds: set[type[Method]] = {entry.cls for entry in methods().values() if issubclass(entry.cls, ShadowMethod)}
    assert kinds == {type(method) for method in METHODS.values()}
