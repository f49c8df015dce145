"""Scores: each member's own definition, and the suite that all of them inherit."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.coverage import uncovered
from conformance.scores import ScoreConformance
from isogrid.errors import UsageError
from isogrid.scores import Gradient, Magnitude, Random, parse_score


class TestMagnitude(ScoreConformance):
    score = Magnitude()

    def test_it_is_the_absolute_weight_in_its_own_type(self) -> None:
        weight = np.array([-3.0, 0.0, 2.5], dtype=np.float32)
        scored = self.score(weight)
        assert scored.tolist() == [3.0, 0.0, 2.5]
        assert scored.dtype == np.float32

    def test_the_lowest_integer_is_the_largest_weight(self) -> None:
        assert self.score(np.array([-128, 127], dtype=np.int8)).tolist() == [128.0, 127.0]


class TestGradient(ScoreConformance):
    score = Gradient()

    def test_it_is_the_absolute_gradient(self) -> None:
        assert self.score(np.zeros(3), gradient=np.array([-3.0, 0.0, 2.5])).tolist() == [3.0, 0.0, 2.5]


class TestRandom(ScoreConformance):
    score = Random()

    def test_it_is_uniform_and_follows_the_generator(self) -> None:
        weight = np.ones((100, 100))
        scored = self.score(weight, rng=np.random.default_rng(0))
        assert scored.min() >= 0.0
        assert scored.max() < 1.0
        assert np.histogram(scored, bins=4, range=(0, 1))[0] == pytest.approx([2500] * 4, rel=0.05)
        assert not np.array_equal(scored, self.score(weight, rng=np.random.default_rng(1)))

    def test_a_missing_generator_is_refused(self) -> None:
        with pytest.raises(UsageError, match="random got no random generator"):
            self.score(np.zeros(3))


def test_every_score_has_its_conformance_test() -> None:
    assert uncovered("Score", "ScoreConformance") == []


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UsageError, match=r"'magnitude'\?\): accepted are magnitude, gradient, random"):
        parse_score("magnitud")
