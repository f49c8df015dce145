"""The frontier and the choice on it."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogrid.errors import UsageError
from isogrid.frontier.points import FrontierPoint, balance_point, check_minimize, to_csv, to_json, unbeaten
from isogrid.metrics import ACCURACY, Metric

LOSS = Metric("loss", higher_is_better=False)


def point(metric: float, size: int, *, holds: bool = True, nonzeros: int = 10, rung: int = 1) -> FrontierPoint:
    return FrontierPoint(f"rung-{rung:02d}", rung, "int8", metric, 0.5, 0.5, nonzeros, size, holds)


def test_the_cheapest_that_holds_is_chosen() -> None:
    points = [point(0.9, 100), point(0.8, 50), point(0.7, 10, holds=False)]
    assert balance_point(points, "bytes", ACCURACY) is points[1]


def test_the_objective_decides() -> None:
    points = [point(0.9, 100, nonzeros=5), point(0.9, 50, nonzeros=9)]
    assert balance_point(points, "bytes", ACCURACY) is points[1]
    assert balance_point(points, "nonzeros", ACCURACY) is points[0]


@pytest.mark.parametrize(("metric", "better"), [(ACCURACY, 0.9), (LOSS, 0.1)])
def test_of_equally_cheap_ones_the_better_then_the_earlier(metric: Metric, better: float) -> None:
    points = [point(0.5, 50), point(better, 50, rung=2), point(better, 50, rung=3)]
    assert balance_point(points, "bytes", metric) is points[1]


def test_the_dense_model_is_the_last_resort() -> None:
    points = [point(0.9, 400, rung=0), point(0.2, 10, holds=False)]
    assert balance_point(points, "bytes", ACCURACY) is points[0]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=12),
    st.sampled_from([ACCURACY, LOSS]),
)
def test_unbeaten_are_exactly_those_that_no_other_dominates(pairs: list[tuple[int, int]], metric: Metric) -> None:
    points = [point(value / 10, size, rung=index) for index, (value, size) in enumerate(pairs)]
    sign = 1 if metric.higher_is_better else -1

    def worth(p: FrontierPoint) -> tuple[float, int]:
        return sign * p.metric, -p.bytes

    for own, flag in zip(points, unbeaten(points, "bytes", metric), strict=True):
        mine = worth(own)
        dominated = any(
            worth(other) != mine and worth(other)[0] >= mine[0] and worth(other)[1] >= mine[1] for other in points
        )
        assert flag == (not dominated)
    # The best metric and the lowest cost are always on it.
    flags = unbeaten(points, "bytes", metric)
    assert any(flag and worth(p)[0] == max(worth(q)[0] for q in points) for p, flag in zip(points, flags, strict=True))
    assert any(flag and p.bytes == min(q.bytes for q in points) for p, flag in zip(points, flags, strict=True))


def test_the_choice_lies_on_the_frontier_of_what_holds() -> None:
    points = [point(0.9, 100), point(0.95, 50), point(0.8, 40), point(0.99, 5, holds=False)]
    chosen = balance_point(points, "bytes", ACCURACY)
    holding = [p for p in points if p.holds]
    assert unbeaten(holding, "bytes", ACCURACY)[holding.index(chosen)]


def test_csv_and_json_say_the_same() -> None:
    points = [point(0.9, 100), point(0.8, 50, rung=2)]
    listed = to_json(points, points[1], [True, False])
    rows = list(csv.DictReader(io.StringIO(to_csv(points, points[1], [True, False]).decode())))
    assert [{key: str(value) for key, value in entry.items()} for entry in listed] == rows
    assert [entry["chosen"] for entry in listed] == [False, True]
    assert [entry["on_frontier"] for entry in listed] == [True, False]


def test_unknown_objectives_are_refused() -> None:
    assert check_minimize("bytes") == "bytes"
    assert check_minimize("nonzeros") == "nonzeros"
    with pytest.raises(UsageError, match="'seconds'; accepted are 'bytes', 'nonzeros', 'latency'"):
        check_minimize("seconds")
