"""When masks are updated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogrid.checks import check_fraction, check_sparsity
from isogrid.errors import UsageError
from isogrid.schedules import Cubic
from isogrid.updates import check_interval, closing_step, update_due, update_interval


def test_a_hundredth_of_the_training_is_the_default() -> None:
    assert [update_interval(None, steps) for steps in (10, 100, 1000)] == [1, 1, 10]
    assert update_interval(7, 1000) == 7


@given(st.integers(1, 500), st.integers(1, 60), st.floats(0, 1))
def test_the_closing_step_is_always_due_and_nothing_behind_it(total: int, interval: int, end: float) -> None:
    schedule = Cubic(end=end)
    closing = closing_step(total, schedule)
    assert update_due(closing, total, interval, schedule)
    due = [step for step in range(1, total + 1) if update_due(step, total, interval, schedule)]
    assert all(step % interval == 0 or step == closing for step in due)
    assert max(due, default=0) <= closing


@pytest.mark.parametrize("delta_t", [0, -1, 2.0, True])
def test_an_interval_that_is_none_is_refused(delta_t: object) -> None:
    with pytest.raises(UsageError, match=r"^M got delta_t=.*; accepted is a whole number of steps >= 1, or None\.$"):
        check_interval("M", delta_t)  # type: ignore[arg-type]


def test_fractions_are_checked() -> None:
    check_fraction("M", "beta", 1.0)
    check_sparsity("M", 0)
    with pytest.raises(UsageError, match=r"^M got beta=1\.1; accepted is a number from 0 to 1\.$"):
        check_fraction("M", "beta", 1.1)
    for wrong in (1.0, -0.1, True, "0.5", float("nan")):
        with pytest.raises(UsageError, match=r"^M got sparsity="):
            check_sparsity("M", wrong)
