"""The closed loop: how its clock runs, and which way the pressure moves."""

from __future__ import annotations

import numpy as np
import pytest

from isogrid.errors import UsageError
from isogrid.rules.aware import LEAST, MOST, ClosedLoop
from isogrid.schedules import Linear
from rules.arrays import ArrayState


class Loop(ClosedLoop):
    """Any penalty will do."""

    def check_penalty(self) -> None:
        pass


def started(loop: Loop, steps: int = 100) -> ArrayState:
    state = ArrayState(np.arange(1.0, 101.0).reshape(10, 10), total_steps=steps)
    loop.start_loop(state)
    return state


def test_the_clock_arrives_with_the_schedule_by_even_steps() -> None:
    loop = Loop(sparsity=0.8, schedule=Linear(end=0.5))
    state = started(loop)
    for step in range(1, 51):
        assert not loop.arrived(state)
        loop.advance(state, step)
        assert state.numbers["clock"] == pytest.approx(0.01 * step)
        assert loop.setpoint(state) == pytest.approx(0.8 * 0.02 * step)
    assert loop.arrived(state)
    assert loop.setpoint(state) == 0.8


def test_a_broken_floor_stops_the_clock_and_halves_the_pressure_and_then_it_catches_up() -> None:
    loop = Loop(sparsity=0.8, schedule=Linear(end=0.5), floor=0.9)
    state = started(loop)
    loop.observe(state, 0.89)
    assert state.numbers["factor"] == 0.5
    for step in range(1, 81):
        loop.advance(state, step)
    assert state.numbers["clock"] == 0.0
    loop.observe(state, 0.9)
    assert state.numbers["factor"] == 0.5
    for step in range(81, 95):
        loop.advance(state, step)
        assert not loop.arrived(state)
    loop.advance(state, 95)  # at the latest
    assert loop.arrived(state)


def test_a_floor_may_be_a_ceiling_and_without_one_no_metric_matters() -> None:
    for loop, metric, broken in (
        (Loop(sparsity=0.8, floor=0.3, higher_is_better=False), 0.31, True),
        (Loop(sparsity=0.8, floor=0.3, higher_is_better=False), 0.29, False),
        (Loop(sparsity=0.8), float("-inf"), False),
    ):
        state = started(loop)
        loop.observe(state, metric)
        assert state.numbers["broken"] is broken
    for _ in range(60):
        loop = Loop(sparsity=0.8, floor=1.0)
        loop.observe(state, 0.0)
    assert state.numbers["factor"] == LEAST


@pytest.mark.parametrize(("zeros", "factor"), [(0, 2.0), (5, 1.0), (10, 0.5), (40, 0.5)])
def test_the_factor_moves_by_the_share_of_the_due_zeros_that_was_made(zeros: int, factor: float) -> None:
    loop = Loop(sparsity=0.8, schedule=Linear(end=1.0))
    state = started(loop)
    state.numbers["clock"] = 0.125  # a tenth is due
    state.layers[0].weight.flat[:zeros] = 0
    loop.adjust(state)
    assert state.numbers["factor"] == pytest.approx(factor)
    assert state.sparsity == pytest.approx(max(0.1, zeros / 100))
    # What was missing is cut by magnitude: the weights are 1 to 100.
    assert state.numbers["threshold"] == (10.0 if zeros < 10 else 0.0)
    assert state.numbers["sensed"] == state.sparsity


def test_the_factor_stays_in_its_bounds_and_rests_while_the_floor_is_broken() -> None:
    loop = Loop(sparsity=0.8, gain=100.0)
    for start, broken, wanted in ((MOST, False, MOST), (3.0, True, 3.0)):
        state = started(loop)
        state.numbers.update(clock=0.2, factor=start, broken=broken)
        loop.adjust(state)
        assert state.numbers["factor"] == wanted


def test_the_penalty_may_run_ahead_by_a_twentieth_of_what_is_left() -> None:
    loop = Loop(sparsity=0.8, schedule=Linear(end=1.0))
    assert loop.most_zeros(started(loop), 0.5) == pytest.approx(100 * (0.4 + 0.05 * 0.6))


def test_what_cannot_be_steered_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^Aware cannot steer towards pattern 2:4, whose sparsity is fixed"):
        Loop(pattern="2:4")
    with pytest.raises(UsageError, match=r"^Aware got delta_t=0;"):
        Loop(sparsity=0.5, delta_t=0)
