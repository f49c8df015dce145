"""SET and RigL: constant counts, what moves and when, and what every method promises."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import OPTIMIZERS, STEPS, Run, assert_effective, assert_same_bits, loss_of, small_model
from conformance.values import seeded
from isogrid.allocation import ERK, Layer
from isogrid.errors import PatternError, TrainingError, UsageError
from isogrid.patterns import FanIn, active_count
from isogrid.schedules import Constant, Linear
from isogrid.sparsify import SET, Method, RigL, Sparsifier, Trigger, parse_method

DEAD = 8 / WEIGHTS
"""Weights that grow in a unit without outgoing connections get no gradient: they are active, and stay zero."""


class TestSET(TrainingMethodConformance):
    method = SET(sparsity=0.8, delta_t=3)
    forgets = True


class TestSETFromZeroInRows(TrainingMethodConformance):
    method = SET(sparsity=0.5, pattern="row", init="zero", allocation="uniform", delta_t=5)
    forgets = True


class TestRigL(TrainingMethodConformance):
    method = RigL(sparsity=0.8, delta_t=4)
    forgets = True


class TestRigLOverAWindow(TrainingMethodConformance):
    method = RigL(sparsity=0.7, delta_t=5, window=4)
    forgets = True


class TestRigLWithConstantFanIn(TrainingMethodConformance):
    method = RigL(sparsity=0.75, pattern="fan_in", allocation="uniform", delta_t=4)
    forgets = True
    least, overshoot = 0.75, DEAD


class TestRigLInBlocks(TrainingMethodConformance):
    method = RigL(sparsity=0.5, pattern="block:2x2", delta_t=4)
    forgets = True


class TestRigLNofM(TrainingMethodConformance):
    method = RigL(pattern="1:4", delta_t=4)
    forgets = True
    least, overshoot = 0.75, DEAD


EITHER = pytest.mark.parametrize("kind", [SET, RigL])
LAYERS = [Layer("0.weight", (16, 12)), Layer("2.weight", (4, 16))]


def smallest(values: Tensor, among: Tensor, count: int) -> Tensor:
    """True at the `count` smallest of the values in `among`."""
    places = sorted(range(values.numel()), key=lambda i: float(values.flatten()[i]))
    chosen = torch.zeros(values.numel(), dtype=torch.bool)
    chosen[[i for i in places if bool(among.flatten()[i])][:count]] = True
    return chosen.reshape(values.shape)


def dense_gradients(run: Run) -> dict[str, Tensor]:
    """The gradients of the step that comes next, by a model that no sparsifier knows."""
    twin = small_model(seed=5)
    twin.load_state_dict(run.model.state_dict())
    loss_of(twin, run.state.step).backward()
    return {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


def stepped(run: Run, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights behind the step that comes next, of plain SGD."""
    rate = run.optimizer.param_groups[0]["lr"]
    return {
        layer.name: layer.weight.clone().add_(gradients[layer.name] * layer.mask, alpha=-rate)
        for layer in run.state.layers
    }


# -- counts ----------------------------------------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("sparsity", [0.3, 0.7, 0.95])
def test_every_layer_has_its_erdos_renyi_kernel_share_at_every_step(kind: Any, sparsity: float) -> None:
    run = Run(kind(sparsity=sparsity, delta_t=2))
    shares = ERK().allocate(LAYERS, sparsity)
    moved = 0
    before = run.sparsifier.masks
    assert {layer.name: layer.active for layer in run.state.layers} == shares
    for _ in run.steps():
        assert {layer.name: layer.active for layer in run.state.layers} == shares
        moved += sum(int((mask != before[name]).sum()) for name, mask in run.sparsifier.masks.items())
        before = run.sparsifier.masks
    assert moved > 0


@given(
    fraction=st.floats(0, 1), delta_t=st.integers(1, 12), sparsity=st.floats(0, 0.95), window=st.integers(1, 5),
    pattern=st.sampled_from(["unstructured", "fan_in", "row", "channel", "block:2x2"]),
)  # fmt: skip
@seeded
def test_counts_hold_whatever_the_options(
    fraction: float, delta_t: int, sparsity: float, window: int, pattern: str
) -> None:
    method = RigL(sparsity, pattern=pattern, drop_fraction=fraction, delta_t=delta_t, window=window)
    run = Run(method, steps=15)
    shares = {layer.name: layer.active for layer in run.state.layers}
    for _ in run.steps():
        assert {layer.name: layer.active for layer in run.state.layers} == shares
        assert all(method.target_pattern.conforms(layer.to_array(layer.mask)) for layer in run.state.layers)
        assert_effective(run)


@pytest.mark.parametrize("kind", [SET, RigL])
def test_constant_fan_in_holds_in_every_row_while_connections_move(kind: Any) -> None:
    run = Run(kind(sparsity=0.75, pattern=FanIn(), allocation="uniform", delta_t=2))
    first = run.sparsifier.masks
    for _ in run.steps():
        for layer, fan_in in zip(run.state.layers, (3, 4), strict=True):
            assert bool((layer.mask.sum(dim=1) == fan_in).all())
    assert not torch.equal(first["0.weight"], run.sparsifier.masks["0.weight"])


def test_the_share_exchanged_falls_along_half_a_cosine() -> None:
    run = Run(RigL(sparsity=0.5, drop_fraction=0.4, delta_t=3))
    before = run.sparsifier.masks
    updates = []
    for step in run.steps():
        after = run.sparsifier.masks
        for name, mask in after.items():
            count = 0
            if step % 3 == 0 and step < 0.75 * STEPS:
                share = 0.4 / 2 * (1 + math.cos(math.pi * step / (0.75 * STEPS)))
                active = int(mask.sum())
                count = min(math.floor(share * active + 1e-9), mask.numel() - active)
            assert int((before[name] & ~mask).sum()) == int((mask & ~before[name]).sum()) == count
            updates.append(count)
        before = after
    assert len(set(updates)) > 4


@pytest.mark.parametrize("window", [1, 4])
def test_rigl_moves_every_tenth_of_a_short_training_by_default(window: int) -> None:
    run = Run(RigL(sparsity=0.5, window=window), steps=60)
    before, moved = run.sparsifier.masks, []
    for step in run.steps():
        after = run.sparsifier.masks
        if any(not torch.equal(mask, before[name]) for name, mask in after.items()):
            moved.append(step)
        before = after
    assert moved == [6, 12, 18, 24, 30, 36]  # the share of step 42 is less than one weight


def test_the_share_of_set_stays_the_same_and_nothing_moves_at_the_last_step() -> None:
    run = Run(SET(sparsity=0.75, drop_fraction=0.25, delta_t=4, allocation="uniform"))
    before = run.sparsifier.masks
    for step in run.steps():
        after = run.sparsifier.masks
        exchanged = [int((mask & ~before[name]).sum()) for name, mask in after.items()]
        assert exchanged == ([12, 4] if step % 4 == 0 and step < STEPS else [0, 0])
        before = after


def test_updates_end_with_the_schedule() -> None:
    run = Run(RigL(sparsity=0.5, delta_t=1, schedule=Linear(end=0.5)))
    for step in run.steps():
        if step == STEPS // 2:
            held = run.sparsifier.masks
    assert all(torch.equal(mask, held[name]) for name, mask in run.sparsifier.masks.items())
    assert not any(Run(RigL(sparsity=0.5, schedule=Constant())).finish().state.numbers.values())


# -- what moves ------------------------------------------------------------------------------------------------------


def test_rigl_drops_the_smallest_magnitudes_and_grows_the_largest_gradients() -> None:
    run = Run(RigL(sparsity=0.6, delta_t=5), "sgd")
    updates = 0
    while run.state.step < STEPS:
        masks, gradients = run.sparsifier.masks, dense_gradients(run)
        weights = stepped(run, gradients)
        run.step()
        if run.state.step % 5 or run.state.step >= 0.75 * STEPS:
            continue
        updates += 1
        share = 0.3 * (1 + math.cos(math.pi * run.state.step / (0.75 * STEPS))) / 2
        for layer in run.state.layers:
            mask = masks[layer.name]
            count = math.floor(share * int(mask.sum()) + 1e-9)
            dropped = smallest(weights[layer.name].abs(), mask, count)
            grown = smallest(-gradients[layer.name].abs(), ~mask, count)
            assert torch.equal(layer.mask, (mask & ~dropped) | grown)
            assert torch.equal(layer.weight, weights[layer.name] * (mask & ~dropped))
    assert updates == 5


def test_constant_fan_in_drops_over_the_layer_and_grows_in_the_row() -> None:
    run = Run(RigL(sparsity=0.75, pattern="fan_in", allocation="uniform", delta_t=4), "sgd")
    for _ in run.steps(until=3):
        pass
    masks, gradients = run.sparsifier.masks, dense_gradients(run)
    weights = stepped(run, gradients)
    run.step()
    share = run.sparsifier.method.drop_fraction_at(0.1)  # type: ignore[attr-defined]
    for layer in run.state.layers:
        mask = masks[layer.name]
        dropped = smallest(weights[layer.name].abs(), mask, math.floor(share * int(mask.sum())))
        assert len(set(dropped.sum(dim=1).tolist())) > 1
        rows = [
            smallest(-gradients[layer.name].abs()[row], ~mask[row], int(dropped[row].sum())) for row in range(len(mask))
        ]
        assert torch.equal(layer.mask, (mask & ~dropped) | torch.stack(rows))


def test_gradients_are_averaged_over_the_window() -> None:
    run = Run(RigL(sparsity=0.6, delta_t=6, window=3), "sgd")
    gathered: list[dict[str, Tensor]] = []
    differs = False
    for due in range(6, 30, 6):
        while run.state.step < due:
            masks, last = run.sparsifier.masks, dense_gradients(run)
            gathered = [*gathered[-2:], last]
            run.step()
        for layer in run.state.layers:
            mask = masks[layer.name]
            mean = torch.stack([gradients[layer.name] for gradients in gathered]).mean(dim=0)
            count = int((layer.mask & ~mask).sum())
            assert torch.equal(layer.mask & ~mask, smallest(-mean.abs(), ~mask, count))
            differs |= not torch.equal(layer.mask & ~mask, smallest(-last[layer.name].abs(), ~mask, count))
    assert differs


@EITHER
@pytest.mark.parametrize("optimizer", ["adam_amsgrad", "sgd_momentum", "adagrad"])
def test_nothing_is_remembered_of_weights_that_have_just_grown(kind: Any, optimizer: str) -> None:
    run = Run(kind(sparsity=0.6, delta_t=4), optimizer)
    before = run.sparsifier.masks
    for step in run.steps(until=24):
        for layer in run.state.layers:
            grown = layer.mask & ~before[layer.name]
            assert bool(grown.any()) == (step % 4 == 0)
            assert bool((layer.weight[grown] != 0).all() if kind is SET else (layer.weight[grown] == 0).all())
            moments = run.state.optimizer_state(layer)
            assert moments
            assert not any(bool(moment[grown].any()) for moment in moments)
        before = run.sparsifier.masks


def test_weights_that_grow_are_trained_from_the_next_step_on() -> None:
    run = Run(RigL(sparsity=0.6, delta_t=4), "sgd")
    for _ in run.steps(until=3):
        pass
    before = run.sparsifier.masks["0.weight"]
    run.step()
    grown = run.state.layers[0].mask & ~before
    gradient = dense_gradients(run)["0.weight"]
    run.step()
    rate = run.optimizer.param_groups[0]["lr"]
    assert torch.equal(run.state.layers[0].weight[grown], -rate * gradient[grown])


def test_set_grows_at_random_by_its_seed() -> None:
    def masks(**options: Any) -> Tensor:
        run = Run(SET(sparsity=0.6, delta_t=4, init="zero"), "sgd", **options)
        return next(run.sparsifier.masks["0.weight"] for step in run.steps() if step == 4)

    assert torch.equal(masks(seed=1), masks(seed=1))
    assert not torch.equal(masks(seed=1), masks(seed=2))


def test_set_drops_the_smallest_and_spreads_growth_evenly() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 400), nn.Linear(400, 4))
    run = Run(SET(sparsity=0.9, delta_t=4), "sgd", model=model)
    for _ in run.steps(until=3):
        pass
    layer = run.state.layers[0]
    mask = layer.mask.clone()
    run.step()
    dropped = mask & ~layer.mask
    assert int(dropped.sum()) == math.floor(0.3 * int(mask.sum()))
    grown = (layer.mask & ~mask).float()
    expected = float(grown.mean())
    assert bool(((grown.mean(dim=0) - expected).abs() < 5 * math.sqrt(expected / 400)).all())


def test_weights_grown_by_set_are_as_wide_as_the_initial_ones() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 800), nn.Linear(800, 4))
    width = [float(model[i].weight.detach().square().mean().sqrt()) for i in range(2)]
    run = Run(SET(sparsity=0.5, allocation="uniform", delta_t=1, drop_fraction=0.5), "sgd", model=model)
    before = run.sparsifier.masks
    run.step()
    for layer, wanted in zip(run.state.layers, width, strict=True):
        values = layer.weight[layer.mask & ~before[layer.name]]
        assert len(values) > 700
        assert float(values.square().mean().sqrt()) == pytest.approx(wanted, rel=0.1)
        assert abs(float(values.mean())) < wanted / 5


# -- where it starts -------------------------------------------------------------------------------------------------


@EITHER
def test_masks_that_are_sparse_enough_are_where_it_starts(kind: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    masks = {name: torch.rand(layer.shape, generator=generator) < 0.2 for name, layer in zip(
        ("0.weight", "2.weight"), LAYERS, strict=True)}  # fmt: skip
    run = Run(kind(sparsity=0.5, delta_t=2), masks=masks)
    assert all(torch.equal(mask, masks[name]) for name, mask in run.sparsifier.masks.items())
    active = run.state.active
    assert run.finish().state.active == active


@EITHER
def test_masks_that_are_too_dense_give_what_is_due_and_are_filled_up_where_a_share_wants_more(kind: Any) -> None:
    masks = {"0.weight": torch.ones(16, 12, dtype=torch.bool), "2.weight": torch.zeros(4, 16, dtype=torch.bool)}
    masks["2.weight"][0, :4] = True
    run = Run(kind(sparsity=0.7), masks=masks)
    assert {layer.name: layer.active for layer in run.state.layers} == ERK().allocate(LAYERS, 0.7)
    assert bool(run.sparsifier.masks["2.weight"][0, :4].all())


def test_masks_that_do_not_fit_the_pattern_are_made_to() -> None:
    masks = {"0.weight": torch.zeros(16, 12, dtype=torch.bool), "2.weight": torch.zeros(4, 16, dtype=torch.bool)}
    masks["0.weight"][:4] = True
    masks["2.weight"][0] = True
    run = Run(RigL(sparsity=0.5, pattern="fan_in"), masks=masks)
    assert all(FanIn().conforms(layer.to_array(layer.mask)) for layer in run.state.layers)
    assert run.state.active <= 64


def test_a_pattern_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PatternError, match=r"0\.weight does not fit the pattern; leave it out with ignore="):
        Run(RigL(sparsity=0.5, pattern="block:5x5"))


# -- within a loop ---------------------------------------------------------------------------------------------------


def test_dense_gradients_are_asked_for_within_the_window_only() -> None:
    run = Run(RigL(sparsity=0.5, delta_t=5, window=2))
    asked = [run.sparsifier.method.gradients(run.state)]
    asked += [run.sparsifier.method.gradients(run.state) for _ in run.steps()]
    assert [step + 1 for step, wanted in enumerate(asked) if wanted == "dense"] == [4, 5, 9, 10, 14, 15, 19, 20, 24, 25]
    whole = RigL(sparsity=0.5, delta_t=5, window=99)
    run = Run(whole)
    asked = [whole.gradients(run.state)] + [whole.gradients(run.state) for _ in run.steps()]
    assert [step + 1 for step, wanted in enumerate(asked) if wanted == "dense"] == list(range(1, 26))
    assert SET(sparsity=0.5).gradients(run.state) == "none"


def test_gathered_gradients_are_saved_and_dropped_with_the_update() -> None:
    run = Run(RigL(sparsity=0.6, delta_t=8, window=6))
    saved = {}
    for step in run.steps():
        held = all("gradient" in layer.buffers for layer in run.state.layers)
        assert held == (step < 24 and step % 8 in (3, 4, 5, 6, 7))
        if step in (5, 9):
            saved[step] = copy.deepcopy(run.save())
    for step in (5, 9, 5):
        # Into a sparsifier in the middle of a window of its own.
        other = Run(RigL(sparsity=0.6, delta_t=8, window=6), model=small_model(seed=99))
        for _ in other.steps(until=14):
            pass
        other.load(copy.deepcopy(saved[step]))
        assert_same_bits(other.finish().bits(), run.bits())


def test_a_frozen_layer_keeps_its_mask() -> None:
    model = small_model()
    model[0].weight.requires_grad_(False)
    run = Run(RigL(sparsity=0.5, delta_t=2), model=model)
    before = run.sparsifier.masks
    run.finish()
    assert torch.equal(run.sparsifier.masks["0.weight"], before["0.weight"])
    assert not torch.equal(run.sparsifier.masks["2.weight"], before["2.weight"])


def test_gradients_of_short_numbers_are_added_up_in_long_ones() -> None:
    run = Run(RigL(sparsity=0.5, delta_t=4, window=4), "sgd", model=small_model().to(torch.bfloat16))
    for _ in range(2):
        run.model(torch.ones(2, 12, dtype=torch.bfloat16)).square().mean().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
    assert all(layer.buffers["gradient"].dtype == torch.float32 for layer in run.state.layers)


def test_gradients_that_are_not_finite_are_reported_before_anything_moves() -> None:
    run = Run(RigL(sparsity=0.5, delta_t=2))
    run.step()
    weight = run.model[0].weight.detach().clone()
    (loss_of(run.model, 1) * math.inf).backward()
    with pytest.raises(TrainingError, match=r"The gradient of 0\.weight is not finite at step 1"):
        run.optimizer.step()
    assert torch.equal(weight, run.model[0].weight)


@EITHER
def test_weights_that_are_not_finite_are_reported(kind: Any) -> None:
    run = Run(kind(sparsity=0.5, delta_t=2))
    run.step()
    run.model[0].weight.data[run.state.layers[0].mask] = math.nan
    with pytest.raises(TrainingError):
        run.step()


@EITHER
def test_telemetry_tells_the_share_and_what_was_exchanged(kind: Any) -> None:
    run = Run(kind(sparsity=0.5, delta_t=4))
    shown = run.sparsifier.telemetry()
    assert (shown["drop_fraction"], shown["dropped"], shown["grown"]) == (0.3, 0, 0)
    before = run.sparsifier.masks
    for step in run.steps(until=8):
        shown = run.sparsifier.telemetry()
        assert shown["drop_fraction"] == run.sparsifier.method.drop_fraction_at(step / STEPS)  # type: ignore[attr-defined]
        if step % 4 == 0:
            dropped = sum(int((before[name] & ~mask).sum()) for name, mask in run.sparsifier.masks.items())
            assert shown["dropped"] == shown["grown"] == dropped > 0
            before = run.sparsifier.masks


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SET(sparsity=0.5, drop_fraction=1.5), r"SET got drop_fraction=1\.5; accepted is a number from 0 to 1"),
        (lambda: RigL(sparsity=0.5, delta_t=0), "RigL got delta_t=0; accepted is a whole number of steps >= 1, or"),
        (lambda: SET(sparsity=0.5, init="one"), "SET got init='one'; accepted are 'random' and 'zero'"),
        (lambda: RigL(sparsity=0.5, window=0), "RigL got window=0; accepted is a whole number of steps >= 1"),
        (lambda: RigL(sparsity=0.5, window=True), "RigL got window=True"),
        (RigL, "RigL needs a sparsity"),
    ],
)  # fmt: skip
def test_options_that_are_not_accepted(make: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


@pytest.mark.parametrize(
    ("text", "options", "wanted"),
    [
        ("rigl", {"window": 4, "delta_t": 5}, RigL(0.9, window=4, delta_t=5)),
        ("rigl", {"schedule": "linear:0..0.5"}, RigL(0.9, schedule=Linear(end=0.5))),
        ("rigl", {"drop_fraction": 0.5}, RigL(0.9, drop_fraction=0.5)),
        ("rigl", {"pattern": "fan_in", "allocation": "uniform"}, RigL(0.9, pattern="fan_in", allocation="uniform")),
        ("set", {"init": "zero"}, SET(0.9, init="zero")),
    ],
)  # fmt: skip
def test_names_and_texts_of_the_command_line(text: str, options: dict[str, Any], wanted: Method) -> None:
    assert parse_method(text, sparsity=0.9, **options) == wanted


def test_a_dense_model_is_left_alone() -> None:
    run = Run(RigL(sparsity=0.0, delta_t=2)).finish()
    assert run.state.active == WEIGHTS == active_count(WEIGHTS, 0.0)


def test_weights_that_are_frozen_are_not_exchanged_by_set() -> None:
    model = small_model()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    run = Run(SET(sparsity=0.5, delta_t=2), model=model)
    masks = run.sparsifier.masks
    run.finish()
    assert torch.equal(run.sparsifier.masks["0.weight"], masks["0.weight"])
    assert torch.equal(model[0].weight, before * masks["0.weight"])
    assert not torch.equal(run.sparsifier.masks["2.weight"], masks["2.weight"])


@pytest.mark.parametrize("method", [RigL(sparsity=0.5, delta_t=2), Trigger(sparsity=0.5, revive=3.0)])
@pytest.mark.parametrize("to_none", [True, False])
def test_an_overflow_at_a_pruned_place_is_seen_by_the_scaler(method: Method, to_none: bool) -> None:
    """It takes the step as it does in dense training, instead of ending the run."""
    model = small_model()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    masks = {"0.weight": torch.ones(16, 12) > 0, "2.weight": torch.ones(4, 16) > 0}
    masks["0.weight"][::2] = False
    sparsifier = Sparsifier(model, method, optimizer=optimizer, total_steps=STEPS, masks=masks, scaler=scaler)
    for step in range(6):
        before = model[0].weight.detach().clone()
        loss = scaler.scale(loss_of(model, step))
        if step == 3:
            overflow = torch.zeros(16, 12).masked_fill_(~sparsifier.masks["0.weight"], math.inf)
            handle = model[0].weight.register_hook(overflow.add)
        loss.backward()
        if step == 3:
            handle.remove()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=to_none)
        assert torch.equal(before, model[0].weight) == (step == 3)
        assert not model[0].weight[~sparsifier.masks["0.weight"]].any()
    assert scaler.get_scale() == 2.0
    assert sparsifier.state.step == 5
