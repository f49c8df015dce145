"""What a schedule promises."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.values import ValueConformance, seeded
from isogrid.errors import UsageError
from isogrid.schedules import Schedule, parse_schedule

progresses = st.floats(0, 1)
numbers = st.floats(-1e3, 1e3)


class ScheduleConformance(ValueConformance):
    """Set `schedule`."""

    schedule: ClassVar[Schedule]
    parse = staticmethod(parse_schedule)

    @property
    def value(self) -> Schedule:
        return self.schedule

    def test_it_begins_before_it_ends(self) -> None:
        assert 0.0 <= self.schedule.begin <= self.schedule.end <= 1.0

    @seeded
    @given(progresses)
    def test_the_ramp_is_0_before_its_begin_and_1_from_its_end(self, progress: float) -> None:
        ramp = self.schedule.ramp(progress)
        assert 0.0 <= ramp <= 1.0
        if progress < self.schedule.begin:
            assert ramp == 0.0
        if progress >= self.schedule.end:
            assert ramp == 1.0

    def test_the_ramp_is_exact_at_its_ends(self) -> None:
        begin, end = self.schedule.begin, self.schedule.end
        assert self.schedule.ramp(end) == self.schedule.ramp(1.0) == 1.0
        if begin < end:
            assert self.schedule.ramp(begin) == 0.0
        if begin > 0.0:
            assert self.schedule.ramp(math.nextafter(begin, 0.0)) == 0.0

    @seeded
    @given(progresses, progresses)
    def test_the_ramp_never_falls(self, one: float, other: float) -> None:
        earlier, later = sorted((one, other))
        # The C library promises no monotone cosine, so one rounding error is allowed.
        assert self.schedule.ramp(earlier) <= self.schedule.ramp(later) + 1e-15

    @seeded
    @given(progresses, numbers, numbers)
    def test_the_value_stays_between_its_ends_and_reaches_both(
        self, progress: float, initial: float, final: float
    ) -> None:
        value = self.schedule.value(progress, initial, final)
        assert min(initial, final) <= value <= max(initial, final)
        assert self.schedule.value(1.0, initial, final) == final
        if self.schedule.ramp(progress) == 0.0:
            assert value == initial

    @seeded
    @given(progresses)
    def test_the_value_from_0_to_1_is_the_ramp(self, progress: float) -> None:
        assert self.schedule.value(progress, 0.0, 1.0) == self.schedule.ramp(progress)
        assert self.schedule.value(progress, 1.0, 0.0) == 1.0 - self.schedule.ramp(progress)

    @pytest.mark.parametrize("progress", [-0.01, 1.01, math.inf, math.nan])
    def test_a_progress_outside_training_is_refused(self, progress: float) -> None:
        with pytest.raises(UsageError, match="from 0 to 1"):
            self.schedule.ramp(progress)
        with pytest.raises(UsageError, match="from 0 to 1"):
            self.schedule.value(progress, 0.0, 1.0)
