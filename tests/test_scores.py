"""Scores: each member's own definition, and the suite that all of them inherit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.coverage import uncovered
from conformance.scores import ScoreConformance
from isogrid import scores
from isogrid.errors import UsageError
from isogrid.scores import (
    SNIP,
    Fisher,
    Gradient,
    GraSP,
    Magnitude,
    Movement,
    Random,
    SynFlow,
    Taylor,
    Wanda,
    parse_score,
)


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


WEIGHT = np.array([2.0, -3.0, 0.0, 0.5])
OTHER = np.array([-0.5, 1.0, 7.0, 4.0])


class TestSNIP(ScoreConformance):
    score = SNIP()

    def test_it_is_the_size_of_weight_times_gradient(self) -> None:
        assert self.score(WEIGHT, gradient=OTHER).tolist() == [1.0, 3.0, 0.0, 2.0]


class TestGraSP(ScoreConformance):
    score = GraSP()

    def test_it_is_the_weight_times_the_product_with_its_sign(self) -> None:
        # The paper's -w Hg is 1, 3, 0 and -2, and it removes the highest.
        assert self.score(WEIGHT, hessian_gradient=OTHER).tolist() == [-1.0, -3.0, 0.0, 2.0]


class TestSynFlow(ScoreConformance):
    score = SynFlow()

    def test_it_is_the_absolute_weight_times_the_flow(self) -> None:
        assert self.score(WEIGHT, flow=np.abs(OTHER)).tolist() == [1.0, 3.0, 0.0, 2.0]
        assert self.score.rounds == 100


class TestTaylor(ScoreConformance):
    score = Taylor()

    def test_it_is_the_squared_weight_times_the_squared_gradient(self) -> None:
        assert self.score(WEIGHT, squared_gradient=OTHER**2).tolist() == [1.0, 9.0, 0.0, 4.0]


class TestFisher(ScoreConformance):
    score = Fisher()

    def test_it_is_half_the_squared_weight_times_the_curvature(self) -> None:
        assert self.score(WEIGHT, fisher=OTHER**2).tolist() == [0.5, 4.5, 0.0, 2.0]


class TestMovement(ScoreConformance):
    score = Movement()

    def test_it_is_high_where_the_weight_leaves_zero(self) -> None:
        # A step of descent takes 2 to 2.5 and -3 to -4, away from zero, and 0.5 to -3.5.
        assert self.score(WEIGHT, gradient=OTHER).tolist() == [1.0, 3.0, 0.0, -2.0]


class TestWanda(ScoreConformance):
    score = Wanda()

    def test_one_norm_for_each_input_serves_all_outputs(self) -> None:
        weight = np.array([[1.0, -2.0, 3.0], [0.0, 4.0, -1.0]])
        norms = np.array([2.0, 1.0, 0.5])
        wanted = [[2.0, 2.0, 1.5], [0.0, 4.0, 0.5]]
        assert self.score(weight, input_norm=norms).tolist() == wanted
        assert self.score(weight, input_norm=np.tile(norms, (2, 1))).tolist() == wanted
        kernel = np.stack([weight, weight], axis=2)
        assert self.score(kernel, input_norm=np.stack([norms, 2 * norms], axis=1))[:, :, 1].tolist() == [
            [4.0, 4.0, 3.0], [0.0, 8.0, 1.0],
        ]  # fmt: skip

    def test_norms_of_the_outputs_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"wanda got input_norm of shape \(2,\): it needs one of .* \(2, 3\)"):
            self.score(np.ones((2, 3)), input_norm=np.ones(2))


def test_every_score_has_its_conformance_test() -> None:
    assert uncovered("Score", "ScoreConformance") == []


def test_a_score_of_ones_own_is_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_SCORES", dict(scores._SCORES))

    @scores.register_score("constant")
    @dataclass(frozen=True)
    class Constant(scores.Score):
        name: ClassVar[str] = "constant"

        def rate(self, weight: NDArray[Any], known: Any, rng: Any) -> NDArray[Any]:
            return np.ones(weight.shape)

    assert parse_score("constant") == Constant()
    assert Constant()(np.zeros((2, 3)), gradient=np.ones(7)).tolist() == [[1.0] * 3] * 2
    with pytest.raises(UsageError, match="'snip' is taken by SNIP"):
        scores.register_score("snip")(Constant)


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UsageError, match=r"'magnitude'\?\): accepted are magnitude, gradient, random, snip, grasp"):
        parse_score("magnitud")
