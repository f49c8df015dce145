"""What the integrations share: late attachment and the penalty's gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from conformance.methods import WEIGHTS
from conformance.training import OPTIMIZERS, Run, assert_same_bits, batch, small_model
from isogrid.errors import SparsifierError, UsageError
from isogrid.integrations.riding import (
    PenaltyGradient,
    attach,
    check_metric,
    check_observed,
    check_options,
    follow_lr_step,
    has_arrived,
)
from isogrid.penalties import L1, L2
from isogrid.sparsify import Aware, Gradual, Regularized, Sparsifier, Static, Trigger

SUBGRADIENT = Regularized(penalty=L1(0.05), proximal=False, sparsity=0.5)


def test_attaching_late_goes_on_from_the_loaded_weights() -> None:
    run = Run(Static(sparsity=0.8), "adam", seed=1)
    for _ in run.steps(until=7):
        pass
    model = copy.deepcopy(run.model)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    saved = run.sparsifier.state_dict()
    # A mask that the method would not begin with.
    saved["masks"] = {name: mask.roll(1, dims=1) for name, mask in saved["masks"].items()}
    for name, mask in saved["masks"].items():
        weight = model.get_parameter(name)
        weight.data.copy_(torch.where(mask, torch.randn(mask.shape), torch.zeros(())))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    riding = attach(model, Static(sparsity=0.8), optimizer=optimizer, saved=saved, total_steps=40, seed=1)
    assert_same_bits(model.state_dict(), before)
    assert_same_bits(riding.masks, saved["masks"])
    assert torch.equal(torch.get_rng_state(), random)


def test_a_state_that_does_not_fit_leaves_no_hooks() -> None:
    saved = Run(Static(sparsity=0.8)).sparsifier.state_dict()
    model = small_model()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with pytest.raises(SparsifierError, match="total_steps=40"):
        attach(model, Static(sparsity=0.8), optimizer=optimizer, saved=saved, total_steps=41)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


class Pair:
    """The same model, optimiser and sparsifier twice: one with the penalty written by hand, one with it in the loss."""

    def __init__(self, method: Regularized | Trigger, penalty: L2 | None = None) -> None:
        self.models = [small_model(), small_model()]
        self.optimizers = [OPTIMIZERS["sgd"](model.parameters()) for model in self.models]
        self.sparsifiers = [
            Sparsifier(model, method, optimizer=optimizer, total_steps=10, penalty=penalty)
            for model, optimizer in zip(self.models, self.optimizers, strict=True)
        ]
        self.written = PenaltyGradient(self.sparsifiers[0])

    def backward(self, number: int) -> None:
        x, y = batch(number)
        nn.functional.mse_loss(self.models[0](x), y).backward()
        (nn.functional.mse_loss(self.models[1](x), y) + self.sparsifiers[1].penalty()).backward()

    def assert_same_gradients(self) -> None:
        for one, other in zip(*(model.parameters() for model in self.models), strict=True):
            torch.testing.assert_close(one.grad, other.grad)


def test_it_is_the_gradient_of_the_sum() -> None:
    pair = Pair(SUBGRADIENT)
    for number in range(4):
        pair.written.add()
        pair.backward(2 * number)
        pair.written.add()
        pair.backward(2 * number + 1)
        pair.assert_same_gradients()
        for optimizer in pair.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=number % 2 == 0)
    assert pair.written.value is not None
    assert not pair.written.value.requires_grad


def test_it_is_added_again_where_the_loop_dropped_it() -> None:
    pair = Pair(SUBGRADIENT)
    for set_to_none in (True, False):
        pair.written.add()
        pair.backward(0)
        for optimizer in pair.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)
    pair.written.add()
    pair.backward(1)
    pair.assert_same_gradients()


def test_it_is_not_added_twice_before_the_loss_has_a_gradient() -> None:
    pair = Pair(SUBGRADIENT)
    pair.written.add()
    pair.written.add()
    pair.backward(0)
    pair.assert_same_gradients()


def test_a_penalty_in_the_loss_as_well_counts_once() -> None:
    pair = Pair(SUBGRADIENT)
    pair.written.add()
    assert float(pair.sparsifiers[0].penalty()) == 0
    pair.backward(0)
    pair.assert_same_gradients()


def test_hidden_gradients_hold_it_too() -> None:
    pair = Pair(Trigger(sparsity=0.6, patience=1, delta_t=1, revive=0.5), penalty=L2(0.01))
    for number in range(4):
        pair.written.add()
        pair.backward(number)
        for optimizer in pair.optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(*(sparsifier.state.layers for sparsifier in pair.sparsifiers), strict=True):
        torch.testing.assert_close(one.buffers["average"], other.buffers["average"])


def test_a_method_without_a_penalty_writes_nothing() -> None:
    run = Run(Gradual(sparsity=0.5))
    written = PenaltyGradient(run.sparsifier)
    written.add()
    assert written.value is None
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_frozen_targets_have_no_gradient() -> None:
    run = Run(SUBGRADIENT)
    written = PenaltyGradient(run.sparsifier)
    run.model.get_parameter("0.weight").requires_grad_(False)
    written.add()
    assert run.model.get_parameter("0.weight").grad is None
    assert run.model.get_parameter("2.weight").grad is not None


def test_a_sparsity_has_arrived_when_it_is_there_or_the_ramp_is_over() -> None:
    run = Run(Gradual(sparsity=0.8, delta_t=1))
    for step in run.steps():
        assert has_arrived(run.sparsifier) == (run.state.mask_sparsity >= 0.8 - 1 / WEIGHTS or step >= 30)
        assert has_arrived(run.sparsifier) or step < 30
        assert not has_arrived(run.sparsifier) or step > 20
    assert has_arrived(Run(Static(sparsity=0.5)).sparsifier)
    assert has_arrived(Run(Regularized(penalty=L1())).sparsifier)
    capped = Run(Trigger(sparsity=0.8, threshold=0.0))
    assert not has_arrived(capped.sparsifier)
    assert has_arrived(capped.finish().sparsifier)


def test_without_a_schedule_there_is_nothing_to_rewind() -> None:
    run = Run(Static(sparsity=0.5))
    follow_lr_step(run.sparsifier, None)
    follow_lr_step(run.sparsifier, torch.optim.lr_scheduler.StepLR(run.optimizer, 1))


def test_only_a_floor_needs_a_metric() -> None:
    check_metric(Aware(sparsity=0.5), None, "name it")
    check_metric(Aware(sparsity=0.5, floor=0.5), "score", "name it")
    check_metric(L1(), None, "name it")
    with pytest.raises(UsageError, match=r"Aware holds a floor and gets no metric to compare with it; name it"):
        check_metric(Aware(sparsity=0.5, floor=0.5), None, "name it")


def test_only_a_floor_needs_an_observation() -> None:
    check_observed(Aware(sparsity=0.5), None, observed=False)
    check_observed(Aware(sparsity=0.5, floor=0.5), "score", observed=True)
    check_observed(L1(), None, observed=False)
    with pytest.raises(
        SparsifierError, match=r"Aware holds a floor, and training ended before score was measured once"
    ):
        check_observed(Aware(sparsity=0.5, floor=0.5), "score", observed=False)


def test_options_are_the_callbacks_own_and_the_sparsifiers() -> None:
    class Callback:
        def __init__(self, method: str, *, metric: str | None = None, seed: int = 0, **options: int) -> None:
            """Nothing."""

    check_options(Callback, ["embeddings", "masks", "data", "forward", "loss", "metric"])
    with pytest.raises(
        UsageError, match=r"Unknown option of Callback 'metrik' \(did you mean 'metric'\?\): accepted are "
    ):
        check_options(Callback, ["data", "metrik"])
    for given in ("model", "optimizer", "scaler"):
        with pytest.raises(UsageError, match=r"accepted are metric, seed, penalty, targets, .*, forward, loss\.$"):
            check_options(Callback, [given])
