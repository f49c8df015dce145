"""One-shot pruning, and what every method promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from conformance.methods import WEIGHTS, MethodConformance
from conformance.training import Run, small_model
from isogrid.errors import TrainingError, UsageError
from isogrid.patterns import active_count
from isogrid.scores import Gradient, Random
from isogrid.sparsify import OneShot, Usage, prune


class TestOneShot(MethodConformance):
    method = OneShot(sparsity=0.8)

    def test_it_belongs_after_training(self) -> None:
        assert self.method.usage is Usage.AFTER
        with pytest.raises(UsageError, match=r"OneShot works after training; call isogrid\.prune"):
            Run(self.method)


class TestOneShotInAPattern(MethodConformance):
    method = OneShot(pattern="1:4")


def test_it_keeps_the_largest_magnitudes_of_all_layers_together() -> None:
    model = small_model()
    before = np.concatenate([model[0].weight.detach().numpy().ravel(), model[2].weight.detach().numpy().ravel()])
    prune(model, OneShot(sparsity=0.8))
    after = np.concatenate([model[0].weight.detach().numpy().ravel(), model[2].weight.detach().numpy().ravel()])
    kept = active_count(WEIGHTS, 0.8)
    wanted = np.zeros(WEIGHTS, bool)
    wanted[np.argsort(-np.abs(before), kind="stable")[:kept]] = True
    assert np.array_equal(after != 0, wanted)
    assert np.array_equal(after[wanted], before[wanted])


def test_nested_sparsities_nest() -> None:
    masks = [prune(small_model(), OneShot(sparsity=s)).masks for s in (0.3, 0.6, 0.9)]
    for wide, narrow in itertools.pairwise(masks):
        assert all(not bool((narrow[name] & ~wide[name]).any()) for name in wide)


def test_random_scores_follow_the_seed() -> None:
    one, again, other = (
        prune(small_model(), OneShot(sparsity=0.5, score=Random()), seed=seed).masks["0.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_score_that_needs_a_gradient_is_refused() -> None:
    with pytest.raises(UsageError, match="needs one of the weight's shape"):
        prune(small_model(), OneShot(sparsity=0.5, score=Gradient()))


def test_weights_that_are_not_finite_are_refused() -> None:
    model = small_model()
    model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"2\.weight are not finite"):
        prune(model, OneShot(sparsity=0.5))
