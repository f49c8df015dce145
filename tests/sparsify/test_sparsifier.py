"""The sparsifier's own contract: what it accepts, the penalty, saving, the end."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conformance.coverage import uncovered
from conformance.methods import WEIGHTS
from conformance.training import (
    STEPS,
    Run,
    assert_effective,
    assert_same_bits,
    loss_of,
    small_model,
)
from isogrid.errors import SparsifierError, TargetError, UnsupportedError, UsageError
from isogrid.penalties import L1, L2, ElasticNet, GroupLasso
from isogrid.sparsify import Aware, Gradual, OneShot, Regularized, Sparsifier, Static, Trigger, methods, prune


def test_every_registered_method_has_its_conformance_test() -> None:
    registered = {method.cls.__name__ for method in methods().values()}
    assert not registered & set(uncovered("Method", "MethodConformance"))


# -- the penalty beside a method ---------------------------------------------------------------------------------------


def test_a_penalty_beside_a_method_is_in_the_loss_and_counted() -> None:
    run = Run(Static(sparsity=0.5), "sgd", penalty=L2(0.3))
    weights = [layer.weight for layer in run.state.layers]
    assert run.sparsifier.penalty().item() == pytest.approx(0.3 * sum(float(w.square().sum()) for w in weights))
    before = run.model[0].weight.detach().clone()
    (gradient,) = torch.autograd.grad(loss_of(run.model, 0), [run.model[0].weight])
    run.step()
    mask = run.sparsifier.masks["0.weight"]
    wanted = (before - 0.05 * (gradient + 0.6 * before)) * mask
    assert torch.allclose(run.model[0].weight.detach(), wanted, atol=1e-7)


def test_a_penalty_that_makes_zeros_takes_its_proximal_step() -> None:
    run = Run(Static(sparsity=0.5), "sgd", penalty=L1(0.3))
    assert not run.sparsifier.penalty().requires_grad
    before = run.model[0].weight.detach().clone()
    (gradient,) = torch.autograd.grad(loss_of(run.model, 0), [run.model[0].weight])
    run.step()
    moved = (before - 0.05 * gradient) * run.sparsifier.masks["0.weight"]
    wanted = moved.sign() * (moved.abs() - 0.05 * 0.3).clamp(min=0)
    assert torch.allclose(run.model[0].weight.detach(), wanted, atol=1e-7)
    assert run.sparsifier.sparsity > run.state.mask_sparsity


@pytest.mark.parametrize("penalty", [L1(0.02), L2(0.02), ElasticNet(0.02, 0.02), GroupLasso(0.01)])
@pytest.mark.parametrize("method", [Gradual(sparsity=0.5), Trigger(sparsity=0.5), Static(sparsity=0.5)])
def test_a_penalty_goes_with_any_method(method: Any, penalty: Any) -> None:
    run = Run(method, "adam", penalty=penalty)
    plain = Run(method, "adam").finish()
    for _ in run.steps():
        assert_effective(run)
    assert run.sparsifier.finalize()["sparsity"] >= 0.5
    assert run.model[0].weight.abs().sum() < plain.model[0].weight.abs().sum()
    assert all(not bool((run.model.get_parameter(n) != 0)[~mask].any()) for n, mask in run.sparsifier.masks.items())


def test_a_penalty_beside_a_method_is_the_method_of_its_own() -> None:
    beside = Run(Static(sparsity=0.0), "adam", penalty=L1(0.03)).finish()
    alone = Run(L1(0.03), "adam").finish()
    beside.sparsifier.finalize()
    alone.sparsifier.finalize()
    assert_same_bits(beside.model.state_dict(), alone.model.state_dict())
    assert all(torch.equal(m, alone.sparsifier.masks[name]) for name, m in beside.sparsifier.masks.items())


def test_forgetting_it_is_an_error_that_names_it() -> None:
    run = Run(Static(sparsity=0.5), penalty=L2(0.25))
    before = run.model[0].weight.detach().clone()
    loss_of(run.model, 0).backward()
    with pytest.raises(
        SparsifierError, match=r"Sparsifier\(penalty=L2\(lam=0\.25\)\) has a penalty and the loss of step 0"
    ):
        run.optimizer.step()
    assert torch.equal(run.model[0].weight, before)


@pytest.mark.parametrize("method", [Regularized(), Aware(sparsity=0.5), L2(0.1)])
def test_never_two_penalties(method: Any) -> None:
    with pytest.raises(UsageError, match="has a penalty of its own; accepted is one of the two"):
        Run(method, penalty=L1(0.1))


def test_what_is_no_penalty_is_refused() -> None:
    with pytest.raises(UsageError, match=r"penalty=0\.01; accepted are L1, L2, ElasticNet and GroupLasso"):
        Run(Static(sparsity=0.5), penalty=0.01)


def test_a_proximal_penalty_needs_a_known_step_size() -> None:
    model = small_model()
    optimizer = torch.optim.Rprop(model.parameters())
    with pytest.raises(UnsupportedError, match="step size of Rprop"):
        Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=9, penalty=L1(0.1))
    Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=9, penalty=L2(0.1))


@pytest.mark.parametrize("penalty", [L1(0.02), L2(0.02)])
def test_a_training_with_a_penalty_resumes_and_refuses_another(penalty: Any) -> None:
    run = Run(Trigger(sparsity=0.5), "adam", penalty=penalty)
    for _ in run.steps(until=STEPS // 2):
        pass
    saved = copy.deepcopy(run.save())
    resumed = Run(Trigger(sparsity=0.5), "adam", penalty=penalty, model=small_model(9)).load(saved)
    assert_same_bits(resumed.finish().bits(), run.finish().bits())
    with pytest.raises(SparsifierError, match="penalty="):
        Run(Trigger(sparsity=0.5), "adam").load(saved)


# -- the penalty is counted once a step --------------------------------------------------------------------------------

PENALISED: dict[str, dict[str, Any]] = {
    "method": {"method": Regularized(penalty=L2(0.5))},
    "beside": {"method": Static(sparsity=0.5), "penalty": L2(0.5)},
}


@pytest.mark.parametrize("kind", PENALISED)
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_accumulation_counts_it_once(kind: str, parts: int) -> None:
    run, whole = Run(optimizer="sgd", **PENALISED[kind]), Run(optimizer="sgd", **PENALISED[kind])
    for _ in range(3):
        for _ in range(parts):
            (loss_of(run.model, run.state.step) / parts + run.sparsifier.penalty()).backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        whole.step()
    for name, weight in run.model.state_dict().items():
        assert torch.allclose(weight, whole.model.state_dict()[name], atol=1e-6)


@pytest.mark.parametrize("kind", PENALISED)
@pytest.mark.parametrize("to_none", [True, False])
def test_a_gradient_that_is_dropped_takes_its_penalty_along(kind: str, to_none: bool) -> None:
    run, whole = Run(optimizer="sgd", **PENALISED[kind]), Run(optimizer="sgd", **PENALISED[kind])
    for _ in range(3):
        (loss_of(run.model, 77) + run.sparsifier.penalty()).backward()
        run.optimizer.zero_grad(set_to_none=to_none)  # the loop thinks better of it
        run.step()
        whole.step()
    assert_same_bits(run.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("kind", PENALISED)
@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_takes_its_penalty_along(kind: str, to_none: bool, fused: bool) -> None:
    trained = []
    for skips in (False, True):
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
        sparsifier = Sparsifier(
            model, PENALISED[kind]["method"], optimizer=optimizer, total_steps=20, scaler=scaler,
            penalty=PENALISED[kind].get("penalty"),
        )  # fmt: skip
        for step in range(4):
            if skips:
                scaler.scale(loss_of(model, step) * float("inf") + sparsifier.penalty()).backward()
                scaler.step(optimizer)
                scaler.update(8.0)
                optimizer.zero_grad(set_to_none=to_none)
                assert sparsifier.state.step == step
            scaler.scale(loss_of(model, step) + sparsifier.penalty()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=to_none)
        assert sparsifier.state.step == 4
        trained.append(model.state_dict())
    assert_same_bits(*trained)


def test_a_closure_may_hold_the_penalty_and_is_checked_after_it() -> None:
    run, plain = Run(L2(0.5), "sgd"), Run(L2(0.5), "sgd")

    def closure(forget: bool = False) -> Tensor:
        run.optimizer.zero_grad()
        loss = loss_of(run.model, run.state.step)
        if not forget:
            loss = loss + run.sparsifier.penalty()
        loss.backward()
        return loss

    for _ in range(3):
        run.optimizer.step(closure)
        plain.step()
    assert_same_bits(run.model.state_dict(), plain.model.state_dict())
    with pytest.raises(SparsifierError, match="did not contain it"):
        run.optimizer.step(lambda: closure(forget=True))


def test_without_a_penalty_the_term_is_zero_and_may_be_left_out() -> None:
    run = Run(Gradual(sparsity=0.5))
    assert run.sparsifier.penalty().item() == 0
    assert run.sparsifier.penalty().shape == ()
    loss_of(run.model, 0).backward()
    run.optimizer.step()


# -- where masks come from ---------------------------------------------------------------------------------------------


def test_adopting_takes_the_zeros_and_no_layer_of_nothing_but_zeros() -> None:
    model = small_model()
    model[0].weight.data[:, 3:6] = 0
    model[2].weight.data.zero_()
    run = Run(Gradual(sparsity=0.0), model=model, adopt=True)
    assert torch.equal(run.sparsifier.masks["0.weight"], model[0].weight != 0)
    assert bool(run.sparsifier.masks["2.weight"].all())
    run.finish()
    assert not model[0].weight[:, 3:6].any()
    assert bool(model[2].weight.any())


def test_without_adopting_zeros_come_alive() -> None:
    model = small_model()
    model[0].weight.data[:, 3:6] = 0
    run = Run(Gradual(sparsity=0.0), model=model).finish()
    assert run.sparsifier.finalize()["sparsity"] == 0


def test_given_masks_are_copied_and_zero_at_once() -> None:
    model = small_model()
    masks = {"0.weight": torch.rand(16, 12) < 0.5, "2.weight": torch.rand(4, 16) < 0.5}
    run = Run(Gradual(sparsity=0.0), model=model, masks=masks)
    assert torch.equal(model[0].weight != 0, masks["0.weight"])
    run.sparsifier.masks["0.weight"].fill_(True)
    masks["0.weight"].fill_(True)
    assert_effective(run)
    assert run.sparsifier.sparsity > 0


def test_the_targets_are_listed() -> None:
    assert Run(Gradual(sparsity=0.5)).sparsifier.targets == ["0.weight", "2.weight"]
    assert Run(Gradual(sparsity=0.5), targets="2").sparsifier.targets == ["2.weight"]
    assert Run(Gradual(sparsity=0.5), ignore=r"2\..*").sparsifier.targets == ["0.weight"]


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_lbfgs_is_refused() -> None:
    model = small_model()
    with pytest.raises(UnsupportedError, match="LBFGS moves weights several times within one step"):
        Sparsifier(model, Gradual(sparsity=0.5), optimizer=torch.optim.LBFGS(model.parameters()), total_steps=5)


def test_an_optimiser_without_the_targets_is_refused() -> None:
    model, other = small_model(), small_model()
    with pytest.raises(
        TargetError, match=r"SGD optimiser holds none of the 2 targets, the first of which is 0\.weight"
    ):
        Sparsifier(model, Gradual(sparsity=0.5), optimizer=torch.optim.SGD(other.parameters(), lr=1), total_steps=5)


def test_an_optimiser_that_lacks_a_target_is_refused_unless_it_is_frozen_or_ignored() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with pytest.raises(TargetError, match=r"lacks 1 of the 2 targets, the first of which is 0\.weight; leave them out"):
        Sparsifier(model, Gradual(sparsity=0.5), optimizer=optimizer, total_steps=5)
    Sparsifier(model, Gradual(sparsity=0.5), optimizer=optimizer, total_steps=5, ignore="0").detach()
    model[0].weight.requires_grad_(False)
    Sparsifier(model, Gradual(sparsity=0.5), optimizer=optimizer, total_steps=5)


def test_a_second_sparsifier_is_refused_and_the_first_goes_on() -> None:
    run = Run(Static(sparsity=0.5))
    for options in ({}, {"targets": "2"}):
        with pytest.raises(
            SparsifierError, match=r"Another sparsifier is attached to .*weight; finalize\(\) or detach\(\)"
        ):
            Sparsifier(run.model, Static(sparsity=0.5), optimizer=run.optimizer, total_steps=5, **options)  # type: ignore[arg-type]
    run.finish().sparsifier.finalize()
    Sparsifier(run.model, Static(sparsity=0.5), optimizer=run.optimizer, total_steps=5)


def test_a_refused_overlap_leaves_no_hooks_behind() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    second = Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=5, targets="2")
    with pytest.raises(SparsifierError, match=r"attached to 2\.weight"):
        Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=5)
    second.detach()
    Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=5)


def test_two_sparsifiers_may_share_a_model_by_targets() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    one = Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=5, targets="0")
    two = Sparsifier(model, L1(0.2), optimizer=optimizer, total_steps=5, targets="2")
    for step in range(5):
        (loss_of(model, step) + one.penalty() + two.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert one.finalize()["sparsity"] == 0.5
    assert two.finalize()["sparsity"] > 0.1


@pytest.mark.parametrize("steps", [0, -1, 1.5, "10", None, True])
def test_steps_must_be_a_whole_number(steps: Any) -> None:
    with pytest.raises(UsageError, match="total_steps="):
        Run(Gradual(sparsity=0.5), steps=steps)


@pytest.mark.parametrize("method", ["gradual", None, 0.9, Gradual])
def test_what_is_no_method_is_refused(method: Any) -> None:
    with pytest.raises(UsageError, match=r"accepted is a Method, such as Gradual\(sparsity=0\.9\)"):
        Run(method)


class FullyShardedDataParallel(nn.Module):
    """Its real namesake needs a device that this machine lacks; the name is what is looked at."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: nn.Sequential(m, nn.ReLU())])
def test_fsdp_is_refused_outside_and_inside(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = wrap(FullyShardedDataParallel(small_model()))
    with pytest.raises(
        UnsupportedError, match="no rank sees a whole mask; use DistributedDataParallel or a plain module"
    ):
        Run(Gradual(sparsity=0.5), model=model)


def test_complex_weights_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, dtype=torch.complex64))
    with pytest.raises(UnsupportedError, match=r"1\.weight is torch\.complex64; only real weights"):
        Run(Gradual(sparsity=0.5), model=model)
    Run(Gradual(sparsity=0.5), model=model, ignore="1")


def test_lazy_modules_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="not initialised yet"):
        Run(Gradual(sparsity=0.5), model=nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 3)))


def test_a_sparsifier_is_no_value_to_copy() -> None:
    run = Run(Gradual(sparsity=0.5))
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UnsupportedError, match="cannot be copied or pickled"):
            attempt(run.sparsifier)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_an_unfinished_schedule_is_an_error_unless_allowed() -> None:
    run = Run(Gradual(sparsity=0.9))
    for _ in run.steps(until=10):
        pass
    with pytest.raises(
        SparsifierError, match=f"after 10 of {STEPS} steps; finish the schedule, or pass allow_unfinished"
    ):
        run.sparsifier.finalize()
    run.step()
    sparsity = run.sparsifier.sparsity
    assert run.sparsifier.finalize(allow_unfinished=True)["sparsity"] == sparsity < 0.9


def test_finalize_twice_is_once() -> None:
    run = Run(Gradual(sparsity=0.5)).finish()
    assert run.sparsifier.finalize() == run.sparsifier.finalize()


def test_training_may_go_on_behind_the_schedule() -> None:
    run = Run(Gradual(sparsity=0.5)).finish()
    for _ in range(3):
        run.step()
        assert_effective(run)
    assert run.state.step == STEPS + 3
    assert run.sparsifier.finalize()["sparsity"] == 0.5


def test_zeros_that_something_else_moved_are_reported() -> None:
    run = Run(Static(sparsity=0.5)).finish()
    run.model[2].weight.data += 1
    with pytest.raises(
        SparsifierError, match=r"Pruned weights of 2\.weight are not zero; something other than the attached"
    ):
        run.sparsifier.finalize()


def test_a_parameter_that_was_replaced_is_reported() -> None:
    run = Run(Static(sparsity=0.5)).finish()
    run.model.load_state_dict(small_model(5).state_dict(), assign=True)
    with pytest.raises(SparsifierError, match=r"0\.weight is no longer the parameter that was trained"):
        run.sparsifier.finalize()


def test_as_a_context_it_takes_its_hooks_off_when_the_loop_fails() -> None:
    run = Run(Static(sparsity=0.5))
    with pytest.raises(KeyboardInterrupt), run.sparsifier:
        raise KeyboardInterrupt
    assert not run.model[0].weight._post_accumulate_grad_hooks
    assert not run.optimizer._optimizer_step_post_hooks


def test_it_rides_on_without_being_held() -> None:
    run = Run(Static(sparsity=0.5))
    masks = run.sparsifier.masks
    model, optimizer = run.model, run.optimizer
    gone = weakref.ref(run.sparsifier)
    del run
    gc.collect()
    loss_of(model, 0).backward()
    optimizer.step()
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())
    del model, optimizer
    gc.collect()
    assert gone() is None


# -- saving ------------------------------------------------------------------------------------------------------------


def test_the_state_is_plain_and_detached_from_the_training() -> None:
    run = Run(Trigger(sparsity=0.5), "adam")
    for _ in run.steps(until=20):
        pass
    saved = run.sparsifier.state_dict()
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["step"] == 20
    before = copy.deepcopy(saved)
    run.finish()
    assert torch.equal(saved["masks"]["0.weight"], before["masks"]["0.weight"])
    assert torch.equal(saved["buffers"]["0.weight"]["average"], before["buffers"]["0.weight"]["average"])
    assert saved["numbers"] == before["numbers"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": Gradual(sparsity=0.6)}, "method="),
        ({"steps": 41}, "total_steps=40, and this sparsifier has total_steps=41"),
        ({"seed": 1}, "seed=0, and this sparsifier has seed=1"),
    ],
)
def test_the_state_of_another_training_is_refused(change: dict[str, Any], said: str) -> None:
    saved = Run(Gradual(sparsity=0.5)).sparsifier.state_dict()
    with pytest.raises(SparsifierError, match=said):
        Run(**{"method": Gradual(sparsity=0.5), **change}).sparsifier.load_state_dict(saved)


def test_the_state_of_other_targets_or_another_release_is_refused() -> None:
    saved = Run(Gradual(sparsity=0.5), targets="0").sparsifier.state_dict()
    with pytest.raises(TargetError, match=r"The masks lack 2\.weight"):
        Run(Gradual(sparsity=0.5)).sparsifier.load_state_dict(saved)
    with pytest.raises(SparsifierError, match="version 7; this release reads version 1"):
        Run(Gradual(sparsity=0.5)).sparsifier.load_state_dict({**saved, "version": 7})


@pytest.mark.parametrize("lost", ["method", "penalty", "step", "total_steps", "seed", "numbers", "masks", "buffers"])
def test_a_state_that_is_not_whole_is_refused(lost: str) -> None:
    run = Run(Gradual(sparsity=0.5))
    saved = run.sparsifier.state_dict()
    del saved[lost]
    with pytest.raises(SparsifierError, match=f"The saved state lacks {lost}; accepted is a whole state_dict"):
        run.sparsifier.load_state_dict(saved)
    with pytest.raises(SparsifierError, match="is of type list; accepted is a state_dict"):
        run.sparsifier.load_state_dict([saved])  # type: ignore[arg-type]
    whole = {**run.sparsifier.state_dict(), "buffers": {}}
    with pytest.raises(TargetError, match=r"buffers do not belong to its masks: 0\.weight"):
        run.sparsifier.load_state_dict(whole)


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"0\.weight is on the meta device and has no values"):
        Run(Gradual(sparsity=0.5), model=small_model().to("meta"))
    with pytest.raises(UnsupportedError, match=r"0\.weight is on the meta device and has no values"):
        prune(small_model().to("meta"), OneShot(sparsity=0.5))


@settings(max_examples=25)
@given(
    sparsity=st.floats(0.0, 0.95),
    delta_t=st.integers(1, 12),
    steps=st.integers(1, 25),
    optimizer=st.sampled_from(["sgd_momentum", "adamw", "rmsprop"]),
)
def test_any_ramp_ends_exactly_and_holds_at_every_step(
    sparsity: float, delta_t: int, steps: int, optimizer: str
) -> None:
    run = Run(Gradual(sparsity=sparsity, delta_t=delta_t), optimizer, steps=steps)
    reached = [0.0]
    for _ in run.steps():
        assert_effective(run)
        reached.append(run.state.mask_sparsity)
    assert reached == sorted(reached)
    zeros = round(run.sparsifier.finalize()["sparsity"] * WEIGHTS)
    assert zeros / WEIGHTS >= sparsity - 1e-9
    assert zeros - 1 < sparsity * WEIGHTS + 1e-9


class Wrapped(torch.optim.Optimizer):
    """What training libraries put around an optimiser: its own hooks never run."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


def test_below_a_wrapper_it_rides_on_the_optimiser_that_moves_the_weights() -> None:
    model = small_model()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = Wrapped(Wrapped(inner))
    sparsifier = Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=3)
    assert sparsifier.state.optimizer is inner
    for step in range(3):
        loss_of(model, step).backward()
        optimizer.step()
    assert sparsifier.finalize()["sparsity"] == 0.5


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(UsageError, match=r"Sparsifier got seed=.*; accepted is a whole number >= 0"):
        Run(Gradual(sparsity=0.5), seed=seed)
