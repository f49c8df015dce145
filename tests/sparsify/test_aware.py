"""The closed loop: it arrives from any strength, backs off from a broken floor, and what every method promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import STEPS, Run, assert_same_bits, small_model
from isogrid.errors import UnsupportedError, UsageError
from isogrid.patterns import active_count
from isogrid.penalties import L1, L2, ElasticNet, GroupLasso
from isogrid.schedules import Constant, Cubic, Linear, Schedule
from isogrid.sparsify import Aware, Sparsifier, Static


class TestAware(TrainingMethodConformance):
    method = Aware(sparsity=0.8, penalty=L1(1e-2), delta_t=3)
    makes_zeros = True
    overshoot = 0.05 * 0.2


class TestAwareOfAFloor(TrainingMethodConformance):
    method = Aware(sparsity=0.7, floor=0.5, higher_is_better=False, penalty=ElasticNet(1e-3, 1e-3), delta_t=3)
    makes_zeros = True
    overshoot = 0.05 * 0.3


class TestAwareInBlocks(TrainingMethodConformance):
    method = Aware(sparsity=0.5, penalty=GroupLasso(1e-2), pattern="block:2x2", delta_t=3)
    makes_zeros = True
    overshoot = 0.05


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum", "adam", "adamw_fused"])
@pytest.mark.parametrize("exponent", [-4, -2, 0, 2, 4])
def test_it_arrives_from_a_strength_that_is_orders_of_magnitude_off(optimizer: str, exponent: int) -> None:
    run = Run(Aware(sparsity=0.9, penalty=L1(1e-3 * 10.0**exponent)), optimizer, steps=200)
    passed = [run.sparsifier.sparsity for _ in run.steps()]
    assert max(passed) <= 0.91
    assert run.sparsifier.finalize()["sparsity"] == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("penalty", [L1(100.0), GroupLasso(100.0), ElasticNet(100.0, 100.0)])
def test_a_far_too_strong_penalty_never_jumps_over_the_setpoint(penalty: Any) -> None:
    run = Run(Aware(sparsity=0.9, penalty=penalty), "adam", steps=200)
    for _ in run.steps():
        setpoint = run.sparsifier.method.setpoint(run.state)  # type: ignore[attr-defined]
        assert run.sparsifier.sparsity <= setpoint + 0.05 * (1 - setpoint) + 1 / WEIGHTS
    assert run.sparsifier.sparsity >= 0.9 - 1 / WEIGHTS


def test_the_factor_moves_by_the_documented_law() -> None:
    method = Aware(sparsity=0.9, penalty=L1(1e-12), delta_t=10, gain=1.5, share=0.4, schedule=Linear(end=1.0))
    run = Run(method, "sgd", steps=100)
    factor = 1.0
    for step in run.steps(until=50):
        if step % 10 == 0:  # so weak a penalty makes none of the zeros that are due, r = 0
            factor *= 2.0 ** (1.5 * 0.4)
        assert run.state.numbers["factor"] == pytest.approx(factor)


def test_a_penalty_that_is_too_weak_grows_until_it_works() -> None:
    run = Run(Aware(sparsity=0.9, penalty=L1(1e-7), delta_t=5, schedule=Linear(end=1.0)), "sgd", steps=600)
    by_penalty = [run.sparsifier.sparsity - run.state.mask_sparsity for _ in run.steps()]
    assert max(by_penalty[:20]) == 0
    assert max(by_penalty[300:]) > 0
    assert run.state.numbers["factor"] > 1e3


def test_what_is_missing_is_cut_at_each_check() -> None:
    run = Run(Aware(sparsity=0.8, penalty=L1(1e-12), delta_t=5), "sgd", steps=100)
    thresholds = []
    for step in run.steps():
        thresholds.append(run.sparsifier.telemetry()["threshold"])
        if step % 5 == 0:
            setpoint = run.sparsifier.method.setpoint(run.state)  # type: ignore[attr-defined]
            assert run.sparsifier.sparsity >= 1 - active_count(WEIGHTS, setpoint) / WEIGHTS - 1e-12
    assert max(thresholds) > 0


def test_while_the_floor_is_broken_the_setpoint_waits_and_the_pressure_falls() -> None:
    run = Run(Aware(sparsity=0.9, floor=0.8, penalty=L1(1e-2)), "adam", steps=400)
    for _ in run.steps(until=60):
        pass
    run.sparsifier.observe(0.9)
    setpoint, factor = run.sparsifier.telemetry()["setpoint"], run.state.numbers["factor"]
    run.sparsifier.observe(0.5)
    assert run.state.numbers["factor"] == factor / 2
    run.sparsifier.observe(0.5)
    assert run.state.numbers["factor"] == factor / 4
    for _ in run.steps(until=160):
        assert run.sparsifier.telemetry()["setpoint"] == setpoint
        assert run.state.numbers["factor"] <= factor / 4
    run.sparsifier.observe(0.85)
    for _ in run.steps(until=170):
        pass
    assert run.sparsifier.telemetry()["setpoint"] > setpoint
    run.finish()
    assert run.sparsifier.finalize()["sparsity"] == pytest.approx(0.9, abs=0.01)


def test_after_a_late_recovery_it_still_arrives_by_the_end() -> None:
    run = Run(Aware(sparsity=0.9, floor=0.8), "adam", steps=400)
    for _ in run.steps(until=40):
        pass
    run.sparsifier.observe(0.1)
    for _ in run.steps(until=340):  # past the ramp's own end at 300
        pass
    assert run.sparsifier.sparsity < 0.5
    run.sparsifier.observe(0.9)
    run.finish()
    assert run.sparsifier.finalize()["sparsity"] == pytest.approx(0.9, abs=0.01)


def test_a_floor_that_stays_broken_is_not_sacrificed() -> None:
    run = Run(Aware(sparsity=0.9, floor=0.8), "adam", steps=200)
    for _ in run.steps(until=40):
        pass
    reached = run.sparsifier.sparsity
    run.sparsifier.observe(0.1)
    run.finish()
    assert reached <= run.sparsifier.finalize()["sparsity"] < reached + 0.1


def test_lower_may_be_better() -> None:
    method = Aware(sparsity=0.9).with_floor(2.0, higher_is_better=False)
    assert (method.floor, method.higher_is_better) == (2.0, False)
    run = Run(method)
    run.sparsifier.observe(2.0)
    assert run.state.numbers["broken"] is False
    run.sparsifier.observe(2.1)
    assert run.state.numbers["broken"] is True


def test_without_a_floor_the_metric_is_ignored() -> None:
    run = Run(Aware(sparsity=0.9))
    before = dict(run.state.numbers)
    run.sparsifier.observe(-1e9)
    assert run.state.numbers == before


def test_a_metric_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(UsageError, match=r"observe\(\) got NaN"):
        Run(Aware(sparsity=0.9, floor=0.5)).sparsifier.observe(float("nan"))


def test_the_pressure_ends_with_the_ramp() -> None:
    run = Run(Aware(sparsity=0.5, penalty=L1(1e-2)), "sgd")
    for _ in run.steps(until=STEPS * 3 // 4):
        pass
    factor, active = run.state.numbers["factor"], run.state.active
    plain = Run(Static(masks=run.sparsifier.masks), "sgd")
    plain.model.load_state_dict(run.model.state_dict())
    plain.state.step = run.state.step
    run.finish()
    plain.finish()
    assert_same_bits(run.model.state_dict(), plain.model.state_dict())
    assert (run.state.numbers["factor"], run.state.active) == (factor, active)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"penalty": L2(0.1)}, "accepted is one whose proximal step makes zeros"),
        ({"penalty": 0.1}, "accepted is one whose proximal step makes zeros"),
        ({"pattern": "2:4"}, "cannot steer towards pattern 2:4"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Aware(**{"sparsity": 0.5, **options})


def test_an_optimiser_whose_step_size_is_not_known_is_refused_at_once() -> None:
    model = small_model()
    with pytest.raises(UnsupportedError, match="does not know the step size of Rprop"):
        Sparsifier(model, Aware(sparsity=0.5), optimizer=torch.optim.Rprop(model.parameters()), total_steps=10)
    assert not model[0].weight._post_accumulate_grad_hooks


@pytest.mark.parametrize("schedule", [Constant(), Cubic(end=0.0)])
def test_a_ramp_without_a_length_leaves_nothing_to_steer(schedule: Schedule) -> None:
    with pytest.raises(UsageError, match=r"Aware got schedule=.*, which leaves nothing to steer; accepted is"):
        Aware(sparsity=0.5, schedule=schedule)
