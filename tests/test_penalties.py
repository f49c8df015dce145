"""Penalties: each one's own formula, and the suite that all of them inherit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from conformance.coverage import uncovered
from conformance.penalties import PenaltyConformance
from isogrid.errors import UsageError
from isogrid.penalties import L1, L2, ElasticNet, GroupLasso, Penalty

WEIGHT = np.array([[0.5, -1.0, 0.02], [0.0, 2.0, -0.3]])


def value(penalty: Penalty, weight: np.ndarray = WEIGHT) -> float:
    return float(penalty.value(torch.from_numpy(weight)))


def shrunk(penalty: Penalty, step: float | Tensor, weight: np.ndarray = WEIGHT) -> np.ndarray:
    tensor = torch.from_numpy(weight).clone()
    penalty.shrink_(tensor, step)
    return tensor.numpy()


def soft(weight: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    return np.sign(weight) * np.maximum(np.abs(weight) - threshold, 0)


class TestL1(PenaltyConformance):
    penalty = L1(0.1)

    def test_formula(self) -> None:
        assert value(L1(0.1)) == pytest.approx(0.1 * np.abs(WEIGHT).sum())
        np.testing.assert_allclose(shrunk(L1(0.1), 3.0), soft(WEIGHT, 0.3))

    def test_each_weight_has_its_own_threshold(self) -> None:
        along = np.array([[1.0, 20.0, 0.1], [1.0, 1.0, 10.0]])
        np.testing.assert_allclose(shrunk(L1(0.1), torch.from_numpy(along)), soft(WEIGHT, 0.1 * along))

    def test_the_gradient_is_the_sign_and_zero_at_zero(self) -> None:
        weight = torch.from_numpy(WEIGHT).requires_grad_()
        L1(0.1).value(weight).backward()
        assert weight.grad is not None
        np.testing.assert_allclose(weight.grad.numpy(), 0.1 * np.sign(WEIGHT))

    def test_what_is_as_large_as_the_threshold_is_zero(self) -> None:
        assert shrunk(L1(1.0), 0.5, np.array([[0.5, -0.5, 0.75]])).tolist() == [[0.0, 0.0, 0.25]]


class TestL2(PenaltyConformance):
    penalty = L2(0.1)

    def test_formula(self) -> None:
        assert value(L2(0.1)) == pytest.approx(0.1 * (WEIGHT**2).sum())
        np.testing.assert_allclose(shrunk(L2(0.1), 3.0), WEIGHT / (1 + 2 * 0.1 * 3))

    def test_it_makes_no_exact_zero_however_strong(self) -> None:
        weight = np.array([[1e-3, 1.0]])
        for _ in range(20):
            weight = shrunk(L2(100.0), 1.0, weight)
        assert np.count_nonzero(weight) == 2


class TestElasticNet(PenaltyConformance):
    penalty = ElasticNet(0.1, 0.2)

    def test_formula(self) -> None:
        wanted = 0.1 * np.abs(WEIGHT).sum() + 0.2 * (WEIGHT**2).sum()
        assert value(ElasticNet(0.1, 0.2)) == pytest.approx(wanted)
        np.testing.assert_allclose(shrunk(ElasticNet(0.1, 0.2), 3.0), soft(WEIGHT, 0.3) / (1 + 2 * 0.2 * 3))

    def test_its_ends_are_l1_and_l2(self) -> None:
        assert value(ElasticNet(0.1, 0.0)) == value(L1(0.1))
        assert value(ElasticNet(0.0, 0.1)) == value(L2(0.1))
        np.testing.assert_array_equal(shrunk(ElasticNet(0.1, 0.0), 2.0), shrunk(L1(0.1), 2.0))


class TestGroupLassoOfRows(PenaltyConformance):
    penalty = GroupLasso(0.1)

    def test_formula(self) -> None:
        norms = np.sqrt((WEIGHT**2).sum(axis=1))
        assert value(GroupLasso(0.1)) == pytest.approx(0.1 * np.sqrt(3) * norms.sum())
        factor = np.maximum(1 - 0.1 * np.sqrt(3) * 2.0 / norms, 0)
        np.testing.assert_allclose(shrunk(GroupLasso(0.1), 2.0), WEIGHT * factor[:, None])

    def test_it_takes_whole_rows(self) -> None:
        after = shrunk(GroupLasso(1.0), 0.8)
        assert np.count_nonzero(after, axis=1).tolist() == [0, 2]

    def test_an_adaptive_group_goes_where_zero_is_best_and_not_elsewhere(self) -> None:
        weight, along = np.array([[0.5, -1.0, 0.2]]), np.array([[0.1, 2.0, 1e5]])
        enough = np.linalg.norm(weight / along) / np.sqrt(3)  # the lam from which zero minimises

        def objective(lam: float, candidate: np.ndarray) -> float:
            return float(((candidate - weight) ** 2 / (2 * along)).sum() + value(GroupLasso(lam), candidate))

        assert not shrunk(GroupLasso(1.001 * enough), torch.from_numpy(along), weight).any()
        after = shrunk(GroupLasso(0.9 * enough), torch.from_numpy(along), weight)
        np.testing.assert_allclose(after, 0.1 * weight)
        towards = 1e-3 * weight / along
        assert objective(0.9 * enough, towards) < objective(0.9 * enough, np.zeros_like(weight))
        assert objective(1.001 * enough, towards) > objective(1.001 * enough, np.zeros_like(weight))

    def test_what_is_pruned_of_a_group_has_no_say(self) -> None:
        weight, along = np.array([[0.5, 0.0, -1.0]]), np.array([[1.0, 1e5, 1.0]])
        after = shrunk(GroupLasso(0.1), torch.from_numpy(along), weight)
        np.testing.assert_array_equal(after, shrunk(GroupLasso(0.1), 1.0, weight))


class TestGroupLassoOfChannels(PenaltyConformance):
    penalty = GroupLasso(0.1, over="channel")

    def test_kernels_belong_to_their_channel(self) -> None:
        weight = np.random.default_rng(0).normal(size=(4, 3, 2, 2))
        norms = np.sqrt((weight**2).sum(axis=(0, 2, 3)))
        assert value(self.penalty, weight) == pytest.approx(0.1 * np.sqrt(16) * norms.sum())
        factor = np.maximum(1 - 0.1 * 4 * 5 / norms, 0)
        np.testing.assert_allclose(shrunk(self.penalty, 5.0, weight), weight * factor[None, :, None, None])


def test_every_penalty_has_its_conformance_test() -> None:
    assert uncovered("Penalty", "PenaltyConformance") == []


def test_groups_have_two_names() -> None:
    with pytest.raises(UsageError, match="over='block'; accepted are 'row' and 'channel'"):
        GroupLasso(0.1, over="block")


def test_strength_must_be_a_number() -> None:
    for strength in ("0.1", None, True):
        with pytest.raises(UsageError, match=r"lam=.*; accepted is a finite number >= 0"):
            L1(strength)  # type: ignore[arg-type]
