import numpy as np
import pytest

from isogrid.frontier.baseline import cross_fitted
from isogrid.metrics import ACCURACY, Metric, Outcomes

ERROR = Metric("error", higher_is_better=False)


def test_one_model_keeps_its_value() -> None:
    only = Outcomes(np.random.default_rng(0).random(38))
    assert cross_fitted(ACCURACY, [only]) == pytest.approx(only.value)


def test_a_model_that_is_best_everywhere_keeps_its_value() -> None:
    scores = np.random.default_rng(0).random(100)
    assert cross_fitted(ACCURACY, [Outcomes(scores / 2), Outcomes(scores)]) == pytest.approx(scores.mean())
    assert cross_fitted(ERROR, [Outcomes(scores / 2), Outcomes(scores)]) == pytest.approx(scores.mean() / 2)


@pytest.mark.parametrize("metric", [ACCURACY, ERROR])
def test_luck_does_not_count(metric: Metric) -> None:
    """Equal models: the best of them looks better than it is, and its cross-fitted value does not."""
    rng = np.random.default_rng(0)
    best, honest = [], []
    for _ in range(200):
        models = [Outcomes((rng.random(400) < 0.8).astype(float)) for _ in range(8)]
        values = [model.value for model in models]
        best.append(max(values) if metric.higher_is_better else min(values))
        honest.append(cross_fitted(metric, models))
    assert abs(np.mean(best) - 0.8) > 0.02
    assert abs(np.mean(honest) - 0.8) < 0.004


def test_single_numbers_leave_the_best() -> None:
    assert cross_fitted(ACCURACY, [0.7, 0.9, 0.8]) == 0.9
    assert cross_fitted(ERROR, [0.7, 0.9, Outcomes([0.8, 0.8])]) == 0.7


def test_one_sample_leaves_the_best() -> None:
    assert cross_fitted(ACCURACY, [Outcomes([0.0]), Outcomes([1.0])]) == 1.0
