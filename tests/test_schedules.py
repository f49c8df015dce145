"""Schedules: each member's own definition, and the suite that all of them inherit."""

from __future__ import annotations

import math

import pytest

from conformance.coverage import uncovered
from conformance.outsiders import Sine
from conformance.schedules import ScheduleConformance
from isogrid.errors import UsageError
from isogrid.schedules import Constant, Cosine, Cubic, Linear, OneShot, Ramp, Schedule, parse_schedule


class TestConstant(ScheduleConformance):
    schedule = Constant()


class TestOneShotAtOnce(ScheduleConformance):
    schedule = OneShot()

    def test_nothing_is_left_to_do_at_the_start(self) -> None:
        assert self.schedule.ramp(0.0) == 1.0


class TestOneShotLater(ScheduleConformance):
    schedule = OneShot(at=0.3)

    def test_it_steps_once(self) -> None:
        assert [self.schedule.ramp(progress) for progress in (0.0, 0.299, 0.3, 1.0)] == [0.0, 0.0, 1.0, 1.0]


class TestOneShotAtTheEnd(ScheduleConformance):
    schedule = OneShot(at=1.0)

    def test_it_waits_for_the_last_step(self) -> None:
        assert [self.schedule.ramp(progress) for progress in (0.0, 0.999, 1.0)] == [0.0, 0.0, 1.0]


class TestLinear(ScheduleConformance):
    schedule = Linear()

    def test_it_is_the_progress(self) -> None:
        assert [self.schedule.ramp(tenths / 10) for tenths in range(11)] == [tenths / 10 for tenths in range(11)]


class TestLinearWindow(ScheduleConformance):
    schedule = Linear(begin=0.25, end=0.75)

    def test_half_way_through_the_window_is_half_way(self) -> None:
        assert self.schedule.value(0.5, 0.0, 0.8) == 0.4


class TestLinearInNoTime(ScheduleConformance):
    schedule = Linear(begin=0.5, end=0.5)


class TestCubic(ScheduleConformance):
    schedule = Cubic()

    @pytest.mark.parametrize("step", range(0, 101, 10))
    def test_it_is_equation_1_of_zhu_and_gupta(self, step: int) -> None:
        initial, final, first_step, steps = 0.1, 0.9, 0, 100
        expected = final + (initial - final) * (1 - (step - first_step) / steps) ** 3
        assert self.schedule.value(step / steps, initial, final) == pytest.approx(expected, abs=1e-15)


class TestCubicWindow(ScheduleConformance):
    schedule = Cubic(begin=1e-07, end=0.8)


class TestCosine(ScheduleConformance):
    schedule = Cosine()

    def test_it_is_half_a_wave(self) -> None:
        assert self.schedule.ramp(1 / 3) == pytest.approx(0.25)
        assert self.schedule.ramp(0.5) == pytest.approx(0.5)
        assert self.schedule.ramp(2 / 3) == pytest.approx(0.75)


class TestAScheduleOfYourOwn(ScheduleConformance):
    schedule = Sine(begin=0.2, end=0.9)
    parse = None


def test_every_schedule_has_its_conformance_test() -> None:
    assert uncovered("Schedule", "ScheduleConformance") == []


def test_a_curve_is_asked_only_between_its_ends() -> None:
    class Inverse(Ramp):
        def curve(self, t: float) -> float:
            return (1 - 1 / (1 + t)) / (1 - 1 / 2) if 0 < t < 1 else math.nan

    schedule = Inverse(begin=0.25, end=0.75)
    assert [schedule.ramp(quarter / 4) for quarter in (0, 1, 3, 4)] == [0.0, 0.0, 1.0, 1.0]
    assert schedule.ramp(0.5) == pytest.approx(2 / 3)


def test_the_text_names_the_window_only_where_it_is_not_the_whole_training() -> None:
    assert [str(schedule) for schedule in (Cubic(), Cubic(end=0.5), Cubic(begin=0.5))] == [
        "cubic",
        "cubic:0.0..0.5",
        "cubic:0.5..1.0",
    ]


def test_gradual_sparsity_never_passes_its_ends() -> None:
    for schedule in (Linear(), Cubic(), Cosine()):
        values = [schedule.value(step / 997, 0.1, 0.3) for step in range(998)]
        assert values[0] == 0.1
        assert values[-1] == 0.3
        assert max(values) == 0.3


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(begin=0.5, end=0.4),
        lambda: Cubic(begin=-0.1),
        lambda: Cosine(end=1.1),
        lambda: Cosine(begin=math.nan),
        lambda: OneShot(at=2.0),
        lambda: OneShot(at=math.nan),
        lambda: parse_schedule("cubic:0.9..0.1"),
    ],
)
def test_times_outside_training_are_refused(make: object) -> None:
    with pytest.raises(UsageError, match="fraction"):
        make()


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("constant", Constant()),
        ("One-Shot", OneShot()),
        ("one_shot:0.5", OneShot(at=0.5)),
        ("linear", Linear()),
        ("cubic:0.1..0.75", Cubic(begin=0.1, end=0.75)),
        ("cosine:0..1", Cosine()),
        ("cosine:1e-3..5e-1", Cosine(begin=0.001, end=0.5)),
    ],
)
def test_text_is_read(text: str, schedule: Schedule) -> None:
    assert parse_schedule(text) == schedule


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("qubic", r"accepted are constant, one_shot\[:AT\], linear\[:BEGIN\.\.END\]"),
        ("constant:0.5", "Unknown schedule 'constant:0.5'"),
        ("cubic:0.5", "'' in schedule 'cubic:0.5' is not a number"),
        ("cubic:a..b", "'a' in schedule"),
        ("one_shot:", "'' in schedule 'one_shot:'"),
        ("", "Unknown schedule ''"),
    ],
)
def test_text_that_names_no_schedule_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_schedule(text)
