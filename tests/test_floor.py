"""Floors in the user's words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogrid.errors import FloorError
from isogrid.floor import absolute, max_drop
from isogrid.metrics import ACCURACY, Metric

LOSS = Metric("loss", higher_is_better=False)
SCORE = Metric("score")


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("0.5pt", "points", 0.5), ("0.5 pt", "points", 0.5), ("1point", "points", 1), ("2 points", "points", 2),
        ("2pp", "points", 2), ("3pts", "points", 3), ("1%", "relative", 0.01), (" 1.5 % ", "relative", 0.015),
        ("0.02", "units", 0.02), (0.02, "units", 0.02), ("1e-3", "units", 1e-3), (0, "units", 0), ("0pt", "points", 0),
    ],
)  # fmt: skip
def test_amounts_are_read(text: str | float, kind: str, amount: float) -> None:
    floor = max_drop(text)
    assert (floor.kind, floor.amount) == (kind, pytest.approx(amount))
    assert floor.text == str(text).strip()


@pytest.mark.parametrize(
    "text",
    ["", "pt", "0,5pt", "half", "-1pt", "-0.1", "nan", "inf", "1e999", "1pt%", "1 2", "--", "1.2.3pt", "5 percent"],
)  # fmt: skip
def test_malformed_amounts_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(FloorError, match=r"^The floor '.*' is not understood; accepted are .*\.$"):
        max_drop(text)


def test_a_share_of_everything_is_no_floor() -> None:
    with pytest.raises(FloorError, match="lets everything go"):
        max_drop("100%")


@pytest.mark.parametrize(
    ("text", "metric", "baseline", "limit"),
    [
        ("0.5pt", ACCURACY, 0.90, 0.895), ("1%", ACCURACY, 0.90, 0.891), ("0.02", ACCURACY, 0.90, 0.88),
        ("0pt", ACCURACY, 0.90, 0.90), ("5%", LOSS, 0.2, 0.21), ("0.1", LOSS, 0.2, 0.3), ("5%", LOSS, -2.0, -1.9),
        ("10%", SCORE, -5.0, -5.5), ("10%", SCORE, 0.0, 0.0),
    ],
)  # fmt: skip
def test_limits(text: str, metric: Metric, baseline: float, limit: float) -> None:
    assert max_drop(text).limit(metric, baseline) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "amount"), [("0.95", 0.95), (0.95, 0.95), ("95%", 0.95), ("95 %", 0.95), ("-3", -3.0)]
)
def test_absolute_floors(text: str | float, amount: float) -> None:
    floor = absolute(text)
    assert floor.amount == pytest.approx(amount)
    assert floor.limit(Metric("m"), baseline=100.0) == pytest.approx(amount)


@pytest.mark.parametrize("text", ["", "0.5pt", "good", "nan", "inf", "0,9"])
def test_malformed_absolute_floors(text: str) -> None:
    with pytest.raises(FloorError, match=r"is not understood; accepted is the metric to reach"):
        absolute(text)


def test_a_baseline_beyond_the_floor_is_named_with_its_side() -> None:
    with pytest.raises(FloorError, match=r"out of reach: the dense baseline's accuracy is 0.9, below it"):
        absolute("0.95").limit(ACCURACY, 0.9)
    with pytest.raises(FloorError, match=r"loss is 0.9, above it"):
        absolute("0.5").limit(LOSS, 0.9)
    assert absolute("0.9").limit(ACCURACY, 0.9) == 0.9
    assert absolute("0.95").limit_from(ACCURACY, 0.9) == 0.95


def test_points_belong_to_percentages() -> None:
    for metric in (LOSS, SCORE):
        with pytest.raises(FloorError, match=f"in points, and {metric.name} is no percentage"):
            max_drop("0.5pt").limit(metric, 1.0)


@pytest.mark.parametrize("text", ["1", "0.97", "97pt"])
def test_a_drop_to_nothing_is_refused_where_nought_is_the_worst(text: str) -> None:
    with pytest.raises(FloorError, match="lets everything go"):
        max_drop(text).limit(ACCURACY, 0.97)


def test_a_drop_below_nought_is_fine_where_the_metric_goes_there() -> None:
    assert max_drop("2").limit(SCORE, 1.0) == -1.0


@given(st.floats(0, 0.5), st.floats(0.51, 1), st.sampled_from(["pt", "%", ""]), st.booleans())
def test_the_baseline_always_holds_what_it_may_lose(amount: float, baseline: float, unit: str, higher: bool) -> None:
    metric = Metric("m", higher_is_better=higher, percent=True)
    limit = max_drop(f"{amount!r}{unit}").limit(metric, baseline)
    assert math.isfinite(limit)
    assert metric.at_least(baseline, limit)
    assert metric.worse_by(baseline, limit) >= 0
