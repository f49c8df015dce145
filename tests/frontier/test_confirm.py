"""The verdict of the test split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogrid.floor import Floor, absolute, max_drop
from isogrid.frontier.confirm import confirm
from isogrid.metrics import ACCURACY, Metric, Outcomes, paired_drop

ERROR = Metric("error", higher_is_better=False)


def right(count: int, of: int) -> Outcomes:
    return Outcomes(np.arange(of) < count)  # type: ignore[arg-type]


def test_held_broken_and_unresolved() -> None:
    dense = right(900, 1000)
    assert confirm(ACCURACY, max_drop("5pt"), dense, right(890, 1000)).state == "held"
    assert confirm(ACCURACY, max_drop("5pt"), dense, right(800, 1000)).state == "broken"
    assert confirm(ACCURACY, max_drop("5pt"), dense, right(850, 1000)).state == "unresolved"


def test_more_samples_resolve_what_few_cannot() -> None:
    assert confirm(ACCURACY, max_drop("1pt"), right(95, 100), right(95, 100)).state == "unresolved"
    assert confirm(ACCURACY, max_drop("1pt"), right(9500, 10_000), right(9500, 10_000)).state == "held"


def test_the_numbers_are_those_of_the_paired_interval() -> None:
    dense, sparse = right(900, 1000), right(880, 1000)
    verdict, drop = confirm(ACCURACY, max_drop("2%"), dense, sparse), paired_drop(ACCURACY, dense, sparse)
    assert (verdict.drop, verdict.low, verdict.high, verdict.samples) == (drop.value, drop.low, drop.high, 1000)
    assert verdict.allowed == pytest.approx(0.02 * 0.9)


def test_without_a_test_split_it_is_untested() -> None:
    verdict = confirm(ACCURACY, max_drop("1pt"), None, None)
    assert verdict.state == "untested"
    assert verdict.samples == 0


@pytest.mark.parametrize(("sparse", "state"), [(0.89, "held"), (0.8900001, "held"), (0.8899, "broken")])
def test_bare_numbers_decide_by_themselves(sparse: float, state: str) -> None:
    verdict = confirm(ACCURACY, max_drop("1pt"), 0.90, sparse)
    assert verdict.state == state
    assert verdict.low == verdict.high == verdict.drop
    assert verdict.samples == 0


def test_one_sample_is_as_good_as_a_bare_number() -> None:
    verdict = confirm(ERROR, max_drop("0.5"), Outcomes(np.array([1.0])), Outcomes(np.array([1.2])))
    assert verdict.state == "held"
    assert verdict.low == verdict.high == pytest.approx(0.2)


def test_an_absolute_floor_that_the_baseline_misses_on_the_test_split_is_broken() -> None:
    assert confirm(ACCURACY, absolute("0.95"), 0.94, 0.945).state == "broken"
    assert confirm(ACCURACY, absolute("0.95"), 0.94, 0.96).state == "held"


def test_lower_is_better() -> None:
    generator = np.random.default_rng(0)
    errors = generator.exponential(1.0, 2000)
    dense = Outcomes(errors)
    assert confirm(ERROR, max_drop("5%"), dense, Outcomes(errors * 1.01)).state == "held"
    assert confirm(ERROR, max_drop("5%"), dense, Outcomes(errors * 1.2)).state == "broken"
    assert confirm(ERROR, max_drop("5%"), dense, Outcomes(errors * 0.5)).state == "held"


@given(st.integers(20, 80), st.integers(0, 80), st.sampled_from(["0", "1pt", "10pt", "30pt", "5%"]))
def test_the_state_says_where_the_interval_lies(dense: int, sparse: int, floor: str) -> None:
    named: Floor = max_drop(floor)
    verdict = confirm(ACCURACY, named, right(dense, 80), right(sparse, 80))
    assert verdict.low <= verdict.drop <= verdict.high
    expected = (
        "held" if verdict.high <= verdict.allowed else "broken" if verdict.low > verdict.allowed else "unresolved"
    )
    assert verdict.state == expected
