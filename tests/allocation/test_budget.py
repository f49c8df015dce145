"""Budget: both bounds hold, the most score is kept, and what every allocation promises."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.allocation import EVEN_SHAPES, STRUCTURED, AllocationConformance, draw_layers, sparsities
from conformance.values import seeded
from isogrid.allocation import Budget, Global, Layer, LayerCost, knapsack
from isogrid.errors import UsageError
from isogrid.patterns import Pattern, Unstructured, active_count


class TestBudgetThatDoesNotBind(AllocationConformance):
    allocation = Budget(LayerCost.linear(1.0), limit=1e9)
    exact = True
    parse = None

    @seeded
    @given(st.data(), sparsities)
    def test_it_keeps_as_much_as_one_ranking_of_all_layers(self, data: st.DataObject, sparsity: float) -> None:
        layers = draw_layers(data, [(7,), (3, 5), (16, 3), (1, 1)])
        mine, ranked = (kept_score(layers, kind.allocate(layers, sparsity)) for kind in (self.allocation, Global()))
        assert mine == ranked


def kept_score(layers: list[Layer], counts: dict[str, int]) -> float:
    return sum(float(np.sort(layer.scores.ravel())[::-1][: counts[layer.name]].sum()) for layer in layers)


def draw_costs(data: st.DataObject, layers: list[Layer]) -> dict[str, LayerCost]:
    """Whole numbers that rise, stand still or jump, at a few densities of each layer."""
    costs = {}
    for layer in layers:
        inner = data.draw(st.lists(st.sampled_from([0.2, 0.25, 0.5, 0.75]), unique=True, max_size=3).map(sorted))
        rises = data.draw(st.lists(st.integers(0, 6), min_size=len(inner) + 2, max_size=len(inner) + 2))
        costs[layer.name] = LayerCost((0.0, *inner, 1.0), tuple(np.cumsum(rises).astype(float).tolist()))
    return costs


def brute_force(layers: list[Layer], budget: Budget) -> float:
    """The most score of all combinations of counts within the limit."""
    best = -math.inf
    for counts in itertools.product(*(range(layer.size + 1) for layer in layers)):
        named = {layer.name: count for layer, count in zip(layers, counts, strict=True)}
        if budget.cost(layers, named) <= budget.limit * (1 + 1e-12):
            best = max(best, kept_score(layers, named))
    return best


@seeded
@given(st.data(), st.floats(0.0, 1.0))
def test_no_combination_of_counts_keeps_more(data: st.DataObject, tightness: float) -> None:
    layers = draw_layers(data, [(1,), (2, 2), (5,), (2, 3)])[:3]
    costs = draw_costs(data, layers)
    least, most = (sum(cost.at(density) for cost in costs.values()) for density in (0.0, 1.0))
    budget = Budget(costs, limit=least + tightness * (most - least))
    counts = budget.allocate(layers, 0.0)
    assert budget.cost(layers, counts) <= budget.limit * (1 + 1e-12)
    assert kept_score(layers, counts) == brute_force(layers, budget)


@seeded
@given(st.data(), st.floats(0.0, 1.0), sparsities, st.sampled_from([Unstructured(), *STRUCTURED]))
def test_cost_and_sparsity_both_hold_and_nothing_more_fits(
    data: st.DataObject, tightness: float, sparsity: float, pattern: Pattern
) -> None:
    layers = draw_layers(data, EVEN_SHAPES)
    costs = draw_costs(data, layers)
    filled = [layer for layer in layers if layer.size]
    least, most = (sum(costs[layer.name].at(density) for layer in filled) for density in (0.0, 1.0))
    budget = Budget(costs, limit=least + tightness * (most - least))
    counts = budget.allocate(layers, sparsity, pattern)
    allowed = active_count(sum(layer.size for layer in layers), sparsity)
    assert sum(counts.values()) <= allowed
    assert budget.cost(filled, counts) <= budget.limit * (1 + 1e-9)
    for layer in filled:
        more = {**counts, layer.name: counts[layer.name] + pattern.grid(layer.shape).step}
        over = more[layer.name] > layer.size or sum(more.values()) > allowed
        assert over or budget.cost(filled, more) > budget.limit * (1 - 1e-9)


def large_layers() -> tuple[list[Layer], dict[str, LayerCost]]:
    """Three layers of up to 2000 weights and a runtime that keeps two of them dense where that is faster."""
    rng = np.random.default_rng(0)
    layers = [
        Layer(f"{i}", shape, np.abs(rng.normal(size=shape)) * scale)
        for i, (shape, scale) in enumerate([((30, 50), 1.0), ((20, 100), 0.5), ((10, 40), 3.0)])
    ]
    costs = {
        "0": LayerCost.of(lambda density: min(1.0, 0.05 + 2.5 * density), points=1001),
        "1": LayerCost.of(lambda density: min(2.0, 0.1 + 6.0 * density), points=1001),
        "2": LayerCost.linear(0.4),
    }
    return layers, costs


def most_score(layers: list[Layer], costs: dict[str, LayerCost], limit: float) -> float:
    """The most of all combinations: every count of the first two layers, and what the third may then have."""
    kept = [np.concatenate([[0.0], np.cumsum(np.sort(layer.scores.ravel())[::-1])]) for layer in layers]
    along = [costs[layer.name].along(np.arange(layer.size + 1) / layer.size) for layer in layers]
    left = limit - np.add.outer(along[0], along[1])
    third = np.searchsorted(along[2], left + 1e-9, side="right") - 1
    return float(np.where(third >= 0, np.add.outer(kept[0], kept[1]) + kept[2][third], -np.inf).max())


@pytest.mark.parametrize("limit", [0.5, 1.0, 2.0, 3.0, 4.0])
def test_large_layers_come_near_the_best_of_all_counts(limit: float) -> None:
    layers, costs = large_layers()
    counts = (budget := Budget(costs, limit)).allocate(layers, 0.0)
    assert budget.cost(layers, counts) <= limit * (1 + 1e-9)
    best = most_score(layers, costs, limit)
    assert 0.995 * best <= kept_score(layers, counts) <= best * (1 + 1e-6)
    assert kept_score(layers, counts) >= kept_score(layers, cheapest_uniform(layers, budget))


def cheapest_uniform(layers: list[Layer], budget: Budget) -> dict[str, int]:
    """The lowest sparsity, alike for all layers, that meets the limit."""
    for density in np.linspace(1, 0, 501):
        counts = {layer.name: int(layer.size * density) for layer in layers}
        if budget.cost(layers, counts) <= budget.limit:
            return counts
    raise AssertionError


def test_a_layer_is_dense_or_sparse_enough_to_gain() -> None:
    layers, costs = large_layers()
    for limit in (1.0, 2.0, 3.0):
        counts = Budget(costs, limit).allocate(layers, 0.0)
        # Between 0.38 and 1 the first layer costs the same: nothing in between makes sense.
        assert counts["0"] == layers[0].size or counts["0"] <= 0.381 * layers[0].size


def test_more_combinations_than_are_remembered_lose_little(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, costs = large_layers()
    budget = Budget(costs, 1.5)
    full = kept_score(layers, budget.allocate(layers, 0.0))
    monkeypatch.setattr(knapsack, "_STATES", 64)
    few = budget.allocate(layers, 0.0)
    assert budget.cost(layers, few) <= 1.5 * (1 + 1e-9)
    assert full >= kept_score(layers, few) >= 0.97 * full


def test_without_a_bound_the_sparsity_alone_decides() -> None:
    layers, costs = large_layers()
    budget = Budget(costs, math.inf)
    counts, ranked = budget.allocate(layers, 0.9), Global().allocate(layers, 0.9)
    assert sum(counts.values()) == active_count(3900, 0.9)
    assert kept_score(layers, counts) == pytest.approx(kept_score(layers, ranked), rel=1e-3)


def test_layers_that_cost_the_same_at_any_density_stay_dense() -> None:
    layers = [Layer("free", (50,), np.full(50, 0.01)), Layer("paid", (50,), np.arange(50.0))]
    costs = {"free": LayerCost.linear(2.0, fixed=2.0), "paid": LayerCost.linear(10.0)}
    assert Budget(costs, limit=4.0).allocate(layers, 0.0) == {"free": 50, "paid": 10}


def test_negative_scores_cost_what_they_take_and_are_kept_only_where_room_is_left() -> None:
    layers = [Layer("a", (4,), np.array([3.0, -1.0, -2.0, -9.0])), Layer("b", (4,), np.array([2.0, 2.0, 2.0, 2.0]))]
    budget = Budget(LayerCost.linear(4.0), limit=5.0)
    assert budget.allocate(layers, 0.0) == {"a": 1, "b": 4}
    assert Budget(LayerCost.linear(4.0), limit=6.0).allocate(layers, 0.0) == {"a": 2, "b": 4}


def test_a_limit_that_cannot_be_met_is_refused() -> None:
    layers, costs = large_layers()
    with pytest.raises(UsageError, match=r"limit=0\.1 ms, and the layers cost 0\.15 ms with no weight left"):
        Budget(costs, 0.1, unit="ms").allocate(layers, 0.0)


def test_a_layer_without_a_cost_is_refused() -> None:
    layers, costs = large_layers()
    del costs["1"]
    with pytest.raises(UsageError, match=r"no cost of layer '1'; it has those of 0, 2"):
        Budget(costs, 1.0).allocate(layers, 0.0)


@pytest.mark.parametrize(
    ("densities", "costs", "said"),
    [
        ((0.0, 1.0), (1.0,), "as many costs"),
        ((), (), "as many costs"),
        ((0.1, 1.0), (1.0, 2.0), "rise from 0 to 1"),
        ((0.0, 0.9), (1.0, 2.0), "rise from 0 to 1"),
        ((0.0, 0.5, 0.5, 1.0), (1.0, 2.0, 3.0, 4.0), "rise from 0 to 1"),
        ((0.0, 1.0), (2.0, 1.0), "never fall"),
        ((0.0, 1.0), (-1.0, 1.0), ">= 0"),
        ((0.0, 1.0), (0.0, math.nan), "finite"),
    ],
)
def test_a_cost_curve_that_is_none_is_refused(
    densities: tuple[float, ...], costs: tuple[float, ...], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        LayerCost(densities, costs)


@pytest.mark.parametrize("limit", [-1.0, math.nan, True, "3"])
def test_a_limit_is_a_number(limit: object) -> None:
    with pytest.raises(UsageError, match="limit="):
        Budget(LayerCost.linear(1.0), limit)  # type: ignore[arg-type]


def test_costs_are_layer_costs() -> None:
    for costs in ({"a": 3.0}, 3.0):
        with pytest.raises(UsageError, match="accepted is a LayerCost"):
            Budget(costs, 1.0)  # type: ignore[arg-type]


def test_costs_are_copied_and_points_may_be_arrays() -> None:
    given = {"a": LayerCost.linear(1.0)}
    budget = Budget(given, 1.0)
    given.clear()
    assert budget.costs == {"a": LayerCost.linear(1.0)}
    assert budget != dataclasses.replace(budget, costs={"a": LayerCost.linear(2.0)})
    measured = LayerCost(np.linspace(0, 1, 3), np.array([1, 2, 2]))  # type: ignore[arg-type]
    assert measured == LayerCost((0.0, 0.5, 1.0), (1.0, 2.0, 2.0))
    assert hash(measured) == hash(LayerCost((0.0, 0.5, 1.0), (1.0, 2.0, 2.0)))
