"""Metrics, scores, and the paired interval against what it promises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogrid.errors import UndefinedMetricError, UsageError
from isogrid.metrics import ACCURACY, Metric, Outcomes, paired_drop, to_outcomes

LOSS = Metric("loss", higher_is_better=False)


def test_direction() -> None:
    assert ACCURACY.worse_by(0.97, 0.96) == 0.01
    assert LOSS.worse_by(0.96, 0.97) == 0.01
    assert ACCURACY.at_least(0.9, 0.9)
    assert ACCURACY.at_least(0.91, 0.9)
    assert not ACCURACY.at_least(0.89, 0.9)
    assert LOSS.at_least(0.89, 0.9)
    assert not LOSS.at_least(0.91, 0.9)


def test_outcomes_of_classes() -> None:
    outcomes = Outcomes.of_classes([1, 2, 2, 0], [1, 2, 3, 1])
    assert outcomes.value == 0.5
    assert outcomes.samples == 4
    assert outcomes.binary
    assert outcomes.scores.tolist() == [1, 1, 0, 0]
    assert outcomes.predictions is not None
    assert outcomes.predictions.tolist() == [1, 2, 2, 0]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Outcomes(np.array([])), "on no sample"),
        (lambda: Outcomes(np.array([1.0, np.nan])), "not finite"),
        (lambda: Outcomes(np.array([1.0, np.inf])), "not finite"),
        (lambda: Outcomes(np.array([1.0, 0.0]), predictions=np.array([1])), "1 predictions for 2 scores"),
        (lambda: Outcomes(np.array([1.0, 0.0]), labels=np.array([1, 2, 3])), "3 labels for 2 scores"),
        (lambda: Outcomes.of_classes([1, 2], [1]), "2 predictions for 1 labels"),
    ],
)
def test_scores_that_make_no_sense_are_refused(build: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build()


# -- the paired interval ---------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_the_paper() -> None:
    """By hand: 8 samples got worse and 3 better of 100, so p = 9/102, q = 4/102 (Bonett and Price 2012)."""
    dense, sparse = np.ones(100), np.ones(100)
    sparse[:8] = 0
    dense[50:53] = 0
    drop = paired_drop(ACCURACY, Outcomes(dense), Outcomes(sparse))
    p, q = 9 / 102, 4 / 102
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / 102)
    assert drop.value == pytest.approx(0.05)
    assert drop.low == pytest.approx(p - q - half, abs=1e-6)
    assert drop.high == pytest.approx(p - q + half, abs=1e-6)


def test_no_change_is_not_certainty() -> None:
    drop = paired_drop(ACCURACY, Outcomes(np.ones(50)), Outcomes(np.ones(50)))
    assert drop.value == 0
    assert drop.low < -0.03
    assert drop.high > 0.03


@pytest.mark.parametrize(("worse", "better", "samples"), [(0.02, 0.01, 360), (0.1, 0.05, 200), (0.005, 0.005, 1000)])
def test_right_or_wrong_scores_are_covered_19_times_of_20(worse: float, better: float, samples: int) -> None:
    """Simulated: the true drop lies in the interval in 95 % of the experiments, within what 2,000 of them resolve."""
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        kind = generator.choice(3, size=samples, p=[worse, better, 1 - worse - better])
        dense, sparse = (kind != 1).astype(float), (kind != 0).astype(float)
        drop = paired_drop(ACCURACY, Outcomes(dense), Outcomes(sparse))
        inside += drop.low <= worse - better <= drop.high
    assert 0.93 <= inside / 2000 <= 0.995


def test_real_scores_are_covered_19_times_of_20() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        dense = generator.exponential(1.0, 150)
        sparse = dense + generator.normal(0.05, 0.3, 150)
        drop = paired_drop(LOSS, Outcomes(dense), Outcomes(sparse))
        inside += drop.low <= 0.05 <= drop.high
    assert 0.93 <= inside / 2000 <= 0.965


def test_pairing_sees_what_two_separate_intervals_would_not() -> None:
    hard = np.random.default_rng(2).random(400) < 0.3
    dense, sparse = (~hard).astype(float), (~hard).astype(float)
    sparse[np.flatnonzero(~hard)[:12]] = 0
    drop = paired_drop(ACCURACY, Outcomes(dense), Outcomes(sparse))
    assert drop.low > 0
    apart = 1.96 * math.sqrt(2 * 0.3 * 0.7 / 400)
    assert drop.value - apart < 0


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60),
    st.sampled_from([ACCURACY, LOSS]),
)
def test_the_interval_holds_the_drop_and_turns_with_the_direction(pairs: list[Any], metric: Metric) -> None:
    dense, sparse = (Outcomes(np.array(column, dtype=float)) for column in zip(*pairs, strict=True))
    drop, back = paired_drop(metric, dense, sparse), paired_drop(metric, sparse, dense)
    assert -1 <= drop.low <= drop.value <= drop.high <= 1
    assert drop.value == pytest.approx(metric.worse_by(dense.value, sparse.value))
    assert (back.low, back.high) == (pytest.approx(-drop.high), pytest.approx(-drop.low))


def test_one_sample_has_no_interval() -> None:
    drop = paired_drop(LOSS, Outcomes(np.array([1.0])), Outcomes(np.array([1.5])))
    assert (drop.value, drop.low, drop.high) == (0.5, -math.inf, math.inf)


def test_unequal_samples_cannot_be_paired() -> None:
    with pytest.raises(UsageError, match="measured on 2 and 3"):
        paired_drop(ACCURACY, Outcomes(np.ones(2)), Outcomes(np.ones(3)))


# -- what a user's function returns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.5, 1, True, np.float32(0.5), np.int64(1), np.array(0.5)])
def test_numbers_stay_numbers(value: Any) -> None:
    assert to_outcomes(value) == float(value)


@pytest.mark.parametrize("value", [[1, 0, 1], (0.5, 0.25), np.array([True, False]), np.float16([0.5]), np.ones((2, 2))])
def test_arrays_are_scores(value: Any) -> None:
    outcomes = to_outcomes(value)
    assert isinstance(outcomes, Outcomes)
    assert outcomes.scores.tolist() == np.asarray(value, dtype=np.float64).reshape(-1).tolist()


def test_tensors_are_scores_or_numbers_in_any_type() -> None:
    torch = pytest.importorskip("torch")
    assert to_outcomes(torch.tensor(0.5)) == 0.5
    for kind in (torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.int64):
        outcomes = to_outcomes(torch.tensor([1, 0, 1]).to(kind).requires_grad_(kind is torch.float32))
        assert isinstance(outcomes, Outcomes)
        assert outcomes.scores.tolist() == [1, 0, 1]


def test_outcomes_pass_through() -> None:
    outcomes = Outcomes(np.ones(3))
    assert to_outcomes(outcomes) is outcomes


@pytest.mark.parametrize(
    "value",
    [
        "0.5",
        None,
        {"a": 0.5},
        float("nan"),
        math.inf,
        ["a"],
        [[1], [1, 2]],
        np.array(["x"]),
        1j,
        object(),
        [None],
    ],
)
def test_anything_else_is_named(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^evaluate returned .*; accepted are a finite number"):
        to_outcomes(value)


def test_a_long_answer_is_not_printed_whole() -> None:
    with pytest.raises(UsageError) as refusal:
        to_outcomes(["x"] * 10_000)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e12])
def test_a_difference_counts_however_small_the_metric(scale: float) -> None:
    error = Metric("error", higher_is_better=False)
    assert error.worse_by(0.96 * scale, 0.97 * scale) == pytest.approx(0.01 * scale)
    assert not error.at_least(2 * scale, scale)
    assert error.at_least(scale, scale)
    drop = paired_drop(error, Outcomes([scale, 2 * scale]), Outcomes([2 * scale, 3 * scale]))
    assert drop.value == pytest.approx(scale)


def test_classes_are_numbers() -> None:
    with pytest.raises(UsageError, match=r"Outcomes got predictions of .*; accepted are the numbers of the classes"):
        Outcomes.of_classes(["a", "b"], ["a", "c"])


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, math.nan]])
def test_a_metric_that_is_undefined_is_told_from_one_that_is_none(value: Any) -> None:
    with pytest.raises(UndefinedMetricError):
        to_outcomes(value)
