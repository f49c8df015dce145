"""One-shot pruning, and what every method promises."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from conformance.methods import WEIGHTS, MethodConformance
from conformance.training import Run, batch, small_model
from isogrid.errors import TrainingError, UsageError
from isogrid.patterns import active_count
from isogrid.scores import Fisher, Magnitude, Random
from isogrid.sparsify import OneShot, Usage, Wanda, parse_method, prune


class TestOneShot(MethodConformance):
    method = OneShot(sparsity=0.8)

    def test_it_belongs_after_training(self) -> None:
        assert self.method.usage is Usage.AFTER
        with pytest.raises(UsageError, match=r"OneShot works after training; call isogrid\.prune"):
            Run(self.method)


class TestOneShotInAPattern(MethodConformance):
    method = OneShot(pattern="1:4")


class TestOneShotByFlow(MethodConformance):
    method = OneShot(sparsity=0.8, score="synflow")


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


DATA = [batch(0), batch(1)]


def squared_error(answer: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.mse_loss(answer, pair[1])


def test_a_score_by_gradients_ranks_what_the_data_say() -> None:
    model = small_model()
    loss = sum(squared_error(model(x), (x, y)) for x, y in DATA)
    weights = [model[0].weight, model[2].weight]
    gradients = torch.autograd.grad(loss, weights)
    sensitivity = torch.cat([(w * g).abs().flatten() for w, g in zip(weights, gradients, strict=True)])
    best = torch.zeros(WEIGHTS, dtype=torch.bool)
    best[sensitivity.topk(active_count(WEIGHTS, 0.8)).indices] = True
    masks = prune(model, OneShot(sparsity=0.8, score="snip"), data=DATA, loss=squared_error).masks
    assert torch.equal(torch.cat([mask.flatten() for mask in masks.values()]), best)


@pytest.mark.parametrize("score", ["gradient", "snip", "grasp", "taylor", "fisher", "movement", "wanda", "synflow"])
def test_every_score_prunes_on_data_and_says_so_where_there_are_none(score: str) -> None:
    method = OneShot(sparsity=0.5, score=score)
    assert prune(small_model(), method, data=DATA, loss=squared_error).sparsity == 0.5
    assert method.needs_data
    with pytest.raises(UsageError, match="OneShot looks at data and got none"):
        prune(small_model(), method)
    assert not OneShot(sparsity=0.5).needs_data


def test_wanda_as_a_score_is_wanda() -> None:
    torch.manual_seed(0)
    model = torch.nn.Conv1d(4, 6, 3, padding=1, groups=2)
    data = [torch.randn(5, 4, 7)]
    score = OneShot(sparsity=0.5, score="wanda", pattern="fan_in", allocation="uniform")
    one, other = (prune(copy.deepcopy(model), method, data=data).masks["weight"] for method in (score, Wanda(0.5)))
    assert torch.equal(one, other)


def test_rounds_lower_the_density_by_the_same_factor_and_rank_what_is_left() -> None:
    # Each round's Fisher is that of the model as the rounds before have left it.
    by_hand = small_model()
    for sparsity in (1 - 0.25 ** (1 / 2), 0.75):
        prune(by_hand, OneShot(sparsity=sparsity, score=Fisher()), data=DATA, loss=squared_error)
    at_once, in_rounds = small_model(), small_model()
    prune(at_once, OneShot(sparsity=0.75, score=Fisher()), data=DATA, loss=squared_error)
    report = prune(in_rounds, OneShot(sparsity=0.75, score=Fisher(), rounds=2), data=DATA, loss=squared_error)
    assert report.sparsity == 0.75
    assert all(torch.equal(a, b) for a, b in zip(by_hand.parameters(), in_rounds.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(at_once.parameters(), in_rounds.parameters(), strict=True))


def test_rounds_start_at_the_sparsity_that_is_there_and_lose_none_of_it() -> None:
    model = small_model()
    prune(model, OneShot(sparsity=0.6))
    zeros = model[0].weight == 0
    report = prune(model, OneShot(sparsity=0.9, score="synflow", rounds=5), data=DATA)
    assert report.nonzeros == active_count(WEIGHTS, 0.9) + 20
    assert not model[0].weight[zeros].any()
    report = prune(model, OneShot(sparsity=0.3, score="synflow", rounds=5), data=DATA)
    assert report.nonzeros == active_count(WEIGHTS, 0.9) + 20


def test_scores_and_rounds_are_resolved() -> None:
    assert OneShot(sparsity=0.5).score == Magnitude()
    assert (OneShot(sparsity=0.5, score="synflow").rounds, OneShot(sparsity=0.5, score="snip").rounds) == (100, 1)
    assert parse_method("one_shot", sparsity=0.5, score="taylor", rounds=3) == OneShot(0.5, score="taylor", rounds=3)
    with pytest.raises(UsageError, match="Unknown score 'tailor'"):
        OneShot(sparsity=0.5, score="tailor")
    with pytest.raises(UsageError, match="OneShot got score=3"):
        OneShot(sparsity=0.5, score=3)  # type: ignore[arg-type]
    for rounds in (0, True, 1.5):
        with pytest.raises(UsageError, match=f"OneShot got rounds={rounds}"):
            OneShot(sparsity=0.5, rounds=rounds)  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_refused() -> None:
    model = small_model()
    model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"2\.weight are not finite"):
        prune(model, OneShot(sparsity=0.5))
