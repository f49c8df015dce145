"""The sweep against slow and plain float64 code, and against the optimum where it must be reached."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from isogrid.patterns import NofM, Pattern, active_count, parse_pattern
from isogrid.sparsify import SparseGPT, prune
from isogrid.sparsify.calibrated.choice import choice_for
from isogrid.sparsify.calibrated.hessian import upper_factor
from isogrid.sparsify.calibrated.matrix import MatrixView
from isogrid.sparsify.calibrated.sweep import sweep


def inputs(samples: int, columns: int, seed: int = 0) -> Tensor:
    """Correlated, of very different sizes, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, columns, generator=generator, dtype=torch.float64)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return x @ mix * torch.rand(columns, generator=generator, dtype=torch.float64).mul(2).exp()


def weights(outputs: int, columns: int, seed: int = 1) -> Tensor:
    return torch.randn(outputs, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(weight: Tensor, hessian: Tensor, sparsity: float, block: int, of: int | None = None) -> Tensor:
    """Algorithm 1 of the paper, one row and one column at a time, with the inverse Hessian updated explicitly."""
    outputs, columns = weight.shape
    remaining = [torch.linalg.inv(hessian[j:, j:]) for j in range(columns)]
    weight = weight.clone()
    cut = torch.zeros_like(weight, dtype=torch.bool)
    gone = 0
    width = of or block
    for first in range(0, columns, width):
        behind = min(columns, first + width)
        costs = torch.stack([weight[:, j] ** 2 / remaining[j][0, 0] for j in range(first, behind)], dim=1)
        if of:
            for row in range(outputs):
                for j in costs[row].argsort()[: of - round((1 - sparsity) * of)]:
                    cut[row, first + j] = True
        else:
            wanted = outputs * behind - (outputs * behind * active_count(weight.numel(), sparsity) // weight.numel())
            for at in costs.flatten().argsort()[: wanted - gone].tolist():
                cut[at // (behind - first), first + at % (behind - first)] = True
            gone = wanted
        for j in range(first, behind):
            for row in range(outputs):
                if cut[row, j]:
                    weight[row, j:] -= weight[row, j] / remaining[j][0, 0] * remaining[j][0]
                    weight[row, j] = 0
    return weight


def run(weight: Tensor, x: Tensor, method: SparseGPT) -> Tensor:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    prune(layer, method, data=[x])
    return layer.weight.detach()


@pytest.mark.parametrize(("columns", "block"), [(12, 4), (13, 5), (16, 16), (20, 64), (9, 1)])
def test_it_is_algorithm_1(columns: int, block: int) -> None:
    x, weight = inputs(40, columns), weights(7, columns)
    moments = x.T @ x
    hessian = moments + 0.01 * moments.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    got = run(weight, x, SparseGPT(sparsity=0.6, block_size=block))
    torch.testing.assert_close(got, plain(weight, hessian, 0.6, block), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("pattern", "columns"), [("2:4", 16), ("1:4", 12), ("2:5", 15), ("3:6", 18)])
def test_it_is_algorithm_1_in_runs(pattern: str, columns: int) -> None:
    x, weight = inputs(40, columns), weights(5, columns)
    moments = x.T @ x
    hessian = moments + 0.01 * moments.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    method = SparseGPT(pattern=pattern, block_size=8)
    assert isinstance(method.pattern, NofM)
    wanted = plain(weight, hessian, method.target_sparsity, 8, of=method.pattern.of)
    torch.testing.assert_close(run(weight, x, method), wanted, rtol=1e-8, atol=1e-8)


def least_squares(weight: Tensor, x: Tensor, support: tuple[int, ...]) -> float:
    """The error of the best weights on a support."""
    kept = x[:, list(support)]
    best = torch.linalg.lstsq(kept, x @ weight.T).solution if support else torch.zeros(0, len(weight))
    return float((x @ weight.T - kept @ best).square().sum()) if support else float((x @ weight.T).square().sum())


@given(st.integers(0, 50))
def test_the_first_removal_is_the_optimal_brain_surgeons(seed: int) -> None:
    """With one weight to lose and nothing yet behind the sweep, the correction is the least-squares optimum."""
    x, weight = inputs(30, 6, seed), weights(1, 6, seed + 1)
    weight[0, 0] = 1e-6  # what goes is the first
    got = run(weight, x, SparseGPT(sparsity=1 / 6, damping=1e-12))
    assert got[0].ne(0).tolist() == [False] + 5 * [True]
    error = float((x @ (got - weight).T).square().sum())
    assert error == pytest.approx(least_squares(weight, x, (1, 2, 3, 4, 5)), rel=1e-5)


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5])
def test_no_support_does_better_than_the_best_and_the_sweep_stays_near_it(keep: int) -> None:
    ratios = []
    for seed in range(20):
        x, weight = inputs(30, 6, seed), weights(1, 6, 100 + seed)
        got = run(weight, x, SparseGPT(sparsity=1 - keep / 6, damping=1e-9))
        error = float((x @ (got - weight).T).square().sum())
        best = min(least_squares(weight, x, support) for support in itertools.combinations(range(6), keep))
        assert error >= best * (1 - 1e-9)
        ratios.append(error / float((x @ weight.T).square().sum()))
        assert int((got != 0).sum()) == keep
    assert sorted(ratios)[10] < 1 - keep / 6


PATTERNS = ["unstructured", "fan_in", "block:2x4", "block:3x1", "channel", "2:4", "1:3"]


@given(st.sampled_from(PATTERNS), st.floats(0, 0.95), st.sampled_from([1, 3, 7, 128]), st.integers(0, 9), st.booleans())
def test_every_pattern_gets_exactly_what_it_keeps_elsewhere(
    text: str, sparsity: float, block: int, seed: int, holes: bool
) -> None:
    pattern: Pattern = parse_pattern(text)
    columns = 24
    x, weight = inputs(30, columns, seed), weights(6, columns, seed)
    active = torch.ones_like(weight, dtype=torch.bool)
    if holes:
        active = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.7
        weight *= active
    view = MatrixView((6, columns))
    keep = active_count(weight.numel(), sparsity)
    step = pattern.grid((6, columns)).step
    choice = choice_for(pattern, view, keep, active.T, block)
    pruned, mask = sweep(weight[None], active[None], upper_factor((x.T @ x)[None], 0.01), choice, block)
    assert not pruned[0][~mask[0]].any()
    assert not (mask[0] & ~active).any()
    if not holes:
        assert pattern.conforms(mask[0].numpy())
        assert int(mask.sum()) == keep // step * step
        return
    groups = torch.from_numpy(pattern.fold(active.numpy())).any(dim=2)
    kept = torch.from_numpy(pattern.fold(mask[0].numpy())).any(dim=2)
    assert torch.equal(kept.sum(dim=1), groups.sum(dim=1).clamp(max=keep // step))


def test_groups_are_swept_side_by_side() -> None:
    x, weight = [inputs(30, 10, seed) for seed in (0, 1)], weights(8, 10)
    factor = upper_factor(torch.stack([one.T @ one for one in x]), 0.01)
    view = MatrixView((8, 10), 2)
    active = torch.ones(2, 4, 10, dtype=torch.bool)
    choice = choice_for(parse_pattern("fan_in"), view, 40, torch.ones(10, 8, dtype=torch.bool), 4)
    together, _ = sweep(view.matrix(weight), active, factor, choice, 4)
    for group, one in enumerate(x):
        alone = run(weight[4 * group : 4 * group + 4], one, SparseGPT(sparsity=0.5, pattern="fan_in", block_size=4))
        torch.testing.assert_close(together[group], alone)


def test_a_wide_layer_in_float32_is_as_exact_as_float32_allows() -> None:
    x, weight = inputs(400, 200), weights(30, 200)
    exact = run(weight, x, SparseGPT(sparsity=0.5))
    got = run(weight.float(), x.float(), SparseGPT(sparsity=0.5))
    assert float(((got != 0) == (exact != 0)).double().mean()) > 0.995
    errors = [float((x @ (one.double() - weight).T).norm()) for one in (got, exact)]
    assert math.isclose(*errors, rel_tol=1e-3)
