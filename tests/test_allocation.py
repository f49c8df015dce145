"""Allocations: each member's own definition, and the suite that all of them inherit."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.allocation import ANY_SHAPES, EVEN_SHAPES, STRUCTURED, AllocationConformance, draw_layers, sparsities
from conformance.coverage import uncovered
from conformance.values import seeded
from isogrid.allocation import ERK, LAMP, OWL, Global, Layer, Uniform, parse_allocation
from isogrid.errors import UsageError
from isogrid.patterns import FanIn, Pattern, Row, Unstructured, active_count


class TestUniform(AllocationConformance):
    allocation = Uniform()
    exact = False

    @seeded
    @given(st.data(), sparsities)
    def test_every_layer_gets_the_same_sparsity(self, data: st.DataObject, sparsity: float) -> None:
        layers = draw_layers(data, ANY_SHAPES)
        counts = self.allocation.allocate(layers, sparsity)
        assert counts == {layer.name: active_count(layer.size, sparsity) for layer in layers}


class TestERK(AllocationConformance):
    allocation = ERK()
    exact = True

    def test_known_densities(self) -> None:
        layers = [Layer("wide", (10, 100)), Layer("conv", (10, 10, 3, 3)), Layer("deep", (5, 20, 5, 5))]
        budget = active_count(1000 + 900 + 2500, 0.9)
        # No layer would be dense, so each count is its sum of dimensions times one factor.
        spans = {"wide": 110, "conv": 26, "deep": 35}
        counts = self.allocation.allocate(layers, 0.9)
        for name, span in spans.items():
            assert abs(counts[name] - Fraction(budget * span, sum(spans.values()))) < 1

    def test_small_layers_become_dense_and_the_rest_is_shared_again(self) -> None:
        layers = [Layer("large", (100, 100)), Layer("small", (2, 2)), Layer("middle", (10, 10))]
        counts = self.allocation.allocate(layers, 0.95)
        budget = active_count(10_104, 0.95)
        # 2 x 2 asks for more than it has; 10 x 10 does not.
        assert counts["small"] == 4
        assert abs(counts["middle"] - Fraction((budget - 4) * 20, 220)) < 1
        assert sum(counts.values()) == budget

    @seeded
    @given(st.data(), sparsities)
    def test_sparse_layers_share_one_factor(self, data: st.DataObject, sparsity: float) -> None:
        layers = [layer for layer in draw_layers(data, ANY_SHAPES) if layer.size]
        counts = self.allocation.allocate(layers, sparsity)
        # Every count is less than 1 away from min(size, factor * span), so each bounds the factor from below.
        factor = max((Fraction(max(0, counts[x.name] - 1), max(1, sum(x.shape))) for x in layers), default=0)
        for layer in layers:
            span = max(1, sum(layer.shape))
            assert counts[layer.name] == layer.size or counts[layer.name] + 1 >= factor * span

    def test_the_last_weight_goes_to_the_largest_remainder(self) -> None:
        # Four weights in the proportion 1 (a scalar, which has no axes) to 8: 4/9 and 32/9.
        layers = [Layer("scalar", ()), Layer("square", (4, 4))]
        assert self.allocation.allocate(layers, 0.76) == {"scalar": 0, "square": 4}
        assert self.allocation.allocate(layers, 0.70) == {"scalar": 1, "square": 4}

    def test_a_large_rest_is_shared_in_whole_rounds(self) -> None:
        layers = [Layer("thin", (1, 50_000)), Layer("thick", (4096, 4)), Layer("tiny", (2, 3))]
        counts = self.allocation.allocate(layers, 0.5, FanIn())
        left = active_count(66_390, 0.5) - sum(counts.values())
        assert counts["thick"] % 4096 == 0
        assert left == 0


class TestGlobal(AllocationConformance):
    allocation = Global()
    exact = True

    @seeded
    @given(st.data(), sparsities)
    def test_it_is_the_top_of_one_stable_ranking(self, data: st.DataObject, sparsity: float) -> None:
        layers = draw_layers(data, ANY_SHAPES)
        counts = self.allocation.allocate(layers, sparsity)
        scores = np.concatenate([layer.scores.ravel() for layer in layers])
        owner = np.repeat(np.arange(len(layers)), [layer.size for layer in layers])
        best = np.argsort(-scores, kind="stable")[: active_count(scores.size, sparsity)]
        assert list(counts.values()) == np.bincount(owner[best], minlength=len(layers)).tolist()

    @seeded
    @given(st.data(), sparsities, st.sampled_from(STRUCTURED))
    def test_structured_groups_rank_by_their_mean(self, data: st.DataObject, sparsity: float, pattern: Pattern) -> None:
        layers = draw_layers(data, EVEN_SHAPES)
        budget = active_count(sum(layer.size for layer in layers), sparsity)
        ranking = []
        for place, layer in enumerate(layers):
            grid = pattern.grid(layer.shape)
            if layer.size:
                for rank, column in enumerate(np.sort(pattern.pool(layer.scores))[:, ::-1].T):
                    # Sums of these scores are exact and equal quotients round alike, so ties are the same ties.
                    ranking.append((-Fraction(int(column.sum()), grid.step), place, rank, grid.step))
        expected = dict.fromkeys((layer.name for layer in layers), 0)
        for _, place, _, step in sorted(ranking):
            if step > budget:
                break
            expected[layers[place].name] += step
            budget -= step
        assert self.allocation.allocate(layers, sparsity, pattern) == expected

    @seeded
    @given(st.data(), sparsities, sparsities, st.sampled_from([Unstructured(), *STRUCTURED]))
    def test_a_lower_sparsity_keeps_all_that_a_higher_one_keeps(
        self, data: st.DataObject, one: float, other: float, pattern: Pattern
    ) -> None:
        layers = draw_layers(data, EVEN_SHAPES)
        more, fewer = (self.allocation.allocate(layers, s, pattern) for s in sorted((one, other)))
        for layer in layers:
            inner, outer = (pattern.mask(layer.scores, counts[layer.name]) for counts in (fewer, more))
            assert np.all(inner <= outer)

    @pytest.mark.parametrize("rows", [2, 40, 400])
    def test_ties_between_groups_of_different_sizes_go_to_the_earlier_layer(self, rows: int) -> None:
        # Rows score 2 and 1 in turn; an unstable sort of many of them would mix the layers.
        scores = {width: np.tile([[2.0], [1.0]], (rows // 2, width)) for width in (2, 3)}
        layers = [Layer(f"{width}", of_width.shape, of_width) for width, of_width in scores.items()]
        filled = np.cumsum(np.repeat([2, 3, 2, 3], rows // 2))
        for sparsity in np.linspace(0, 1, 41).tolist():
            kept = np.searchsorted(filled, active_count(5 * rows, sparsity), side="right")
            runs = np.clip(kept - rows // 2 * np.arange(4), 0, rows // 2)
            expected = {"2": 2 * (runs[0] + runs[2]), "3": 3 * (runs[1] + runs[3])}
            assert self.allocation.allocate(layers, sparsity, Row()) == expected

    def test_large_groups_are_ranked_per_weight(self) -> None:
        small = Layer("small", (2, 2), np.full((2, 2), 3.0))
        large = Layer("large", (2, 100), np.full((2, 100), 2.0))
        assert self.allocation.allocate([large, small], 0.5, Row()) == {"large": 0, "small": 4}
        assert self.allocation.allocate([large, small], 0.49, Row()) == {"large": 100, "small": 4}


def naive_lamp(layers: list[Layer]) -> list[tuple[float, int]]:
    """The LAMP score and the layer of every weight, by the definition and one at a time."""
    scored = []
    for place, layer in enumerate(layers):
        ascending = sorted(layer.scores.ravel().tolist())
        for rank, score in enumerate(ascending):
            energy = sum(other**2 for other in ascending[rank:])
            scored.append((score**2 / energy if energy else 0.0, place))
    return scored


class TestLAMP(AllocationConformance):
    allocation = LAMP()
    exact = True

    @seeded
    @given(st.data(), sparsities)
    def test_it_is_the_top_of_the_ranking_by_definition(self, data: st.DataObject, sparsity: float) -> None:
        layers = draw_layers(data, ANY_SHAPES)
        counts = self.allocation.allocate(layers, sparsity)
        ranking = sorted(naive_lamp(layers), key=lambda entry: (-entry[0], entry[1]))
        kept = [place for _, place in ranking[: active_count(len(ranking), sparsity)]]
        assert list(counts.values()) == [kept.count(place) for place in range(len(layers))]

    def test_known_scores(self) -> None:
        # Squares 16, 9, 4, 1 over their sums from the top: 1, 9/25, 4/29, 1/30.
        one = Layer("one", (4,), np.array([2.0, 1.0, 4.0, 3.0]))
        # 1, 1/2, 1/3: equal scores do not tie.
        flat = Layer("flat", (3,), np.ones(3))
        assert [self.allocation.allocate([one, flat], 1 - n / 7) for n in range(1, 7)] == [
            {"one": 1, "flat": 0}, {"one": 1, "flat": 1}, {"one": 1, "flat": 2}, {"one": 2, "flat": 2},
            {"one": 2, "flat": 3}, {"one": 3, "flat": 3},
        ]  # fmt: skip

    def test_the_scale_of_a_layer_does_not_matter(self) -> None:
        rng = np.random.default_rng(0)
        weights = rng.normal(size=(2, 30, 10))
        plain = [Layer(f"{i}", (30, 10), np.abs(w)) for i, w in enumerate(weights)]
        scaled = [plain[0], Layer("1", (30, 10), plain[1].scores * 2.0**-60)]
        huge = [plain[0], Layer("1", (30, 10), plain[1].scores * 2.0**600)]
        wanted = self.allocation.allocate(plain, 0.7)
        assert self.allocation.allocate(scaled, 0.7) == self.allocation.allocate(huge, 0.7) == wanted
        assert Global().allocate(scaled, 0.7)["1"] == 0

    def test_scores_at_or_below_zero_come_last_and_in_their_own_order(self) -> None:
        signed = Layer("signed", (4,), np.array([-3.0, 5.0, -1.0, 0.0]))
        lower = Layer("lower", (3,), np.array([-2.0, -4.0, -8.0]))
        kept = [self.allocation.allocate([signed, lower], 1 - n / 7)["signed"] for n in range(8)]
        assert kept == [0, 1, 2, 3, 3, 4, 4, 4]

    @seeded
    @given(st.data(), sparsities, sparsities, st.sampled_from([Unstructured(), *STRUCTURED]))
    def test_a_lower_sparsity_keeps_all_that_a_higher_one_keeps(
        self, data: st.DataObject, one: float, other: float, pattern: Pattern
    ) -> None:
        layers = draw_layers(data, EVEN_SHAPES)
        more, fewer = (self.allocation.allocate(layers, s, pattern) for s in sorted((one, other)))
        assert all(fewer[name] <= more[name] for name in fewer)

    def test_groups_count_by_their_mean(self) -> None:
        # Row means 3, 1 and 2, 2: 1, 1/10 and 1, 1/2.
        layers = [Layer("a", (2, 2), np.array([[4.0, 2.0], [1.0, 1.0]])), Layer("b", (2, 3), np.full((2, 3), 2.0))]
        assert self.allocation.allocate(layers, 0.2, Row()) == {"a": 2, "b": 6}


class TestOWL(AllocationConformance):
    allocation = OWL()
    exact = True

    @seeded
    @given(st.data(), sparsities, st.floats(1.0, 3.0), st.floats(0.0, 0.3))
    def test_each_layer_stays_within_its_range_and_all_meet_the_budget(
        self, data: st.DataObject, sparsity: float, m: float, lam: float
    ) -> None:
        layers = [layer for layer in draw_layers(data, ANY_SHAPES) if layer.size]
        counts = OWL(m=m, lam=lam).allocate(layers, sparsity)
        size = sum(layer.size for layer in layers)
        assert sum(counts.values()) == active_count(size, sparsity)
        mean = active_count(size, sparsity) / max(1, size)
        for layer in layers:
            assert mean - lam - 1 / layer.size <= counts[layer.name] / layer.size <= mean + lam + 1 / layer.size

    def test_densities_are_those_of_the_paper(self) -> None:
        # Shares of outliers 0, 5 and 10 %: densities 2 lam apart, the middle one in the middle.
        scores = [np.ones(1000) for _ in range(3)]
        scores[1][:50], scores[2][:100] = 1000, 1000
        layers = [Layer(f"{i}", (1000,), values) for i, values in enumerate(scores)]
        assert [float(OWL().outliers(layer)) for layer in layers] == [0.0, 0.05, 0.1]
        assert list(OWL().allocate(layers, 0.6).values()) == [320, 400, 480]
        assert list(OWL(lam=0.2).allocate(layers, 0.6).values()) == [200, 400, 600]
        # With 1000 / 50.95 as the mean's multiple, the second layer has no outliers, and the third none either.
        assert list(OWL(m=20).allocate(layers, 0.6).values()) == [400, 400, 400]

    def test_the_mean_is_weighted_by_size_and_no_layer_leaves_the_range(self) -> None:
        spiky = np.ones(100)
        spiky[:10] = 1000
        layers = [Layer("large", (9900,), np.ones(9900)), Layer("small", (100,), spiky)]
        # The small one may rise by 0.08 only, though the large one pays next to nothing for it.
        assert OWL().allocate(layers, 0.5) == {"large": 5000 - 58, "small": 58}

    def test_the_range_ends_where_a_layer_is_full_or_empty(self) -> None:
        spiky = np.ones(100)
        spiky[:10] = 1000
        layers = [Layer("plain", (100,), np.ones(100)), Layer("spiky", (100,), spiky)]
        assert OWL(lam=0.5).allocate(layers, 0.1) == {"plain": 80, "spiky": 100}
        assert OWL(lam=0.5).allocate(layers, 0.9) == {"plain": 0, "spiky": 20}

    def test_negative_scores_count_as_zero(self) -> None:
        scores = np.array([-100.0, -100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 16.0])
        assert OWL().outliers(Layer("a", (8,), scores)) == Fraction(1, 8)

    @pytest.mark.parametrize("options", [{"m": 0}, {"m": float("inf")}, {"m": float("nan")}, {"lam": -1}, {"lam": 2}])
    def test_numbers_out_of_range_are_refused(self, options: dict[str, float]) -> None:
        with pytest.raises(UsageError, match=f"OWL got {next(iter(options))}="):
            OWL(**options)


def test_every_allocation_has_its_conformance_test() -> None:
    assert uncovered("Allocation", "AllocationConformance") == []


def test_a_layer_refuses_scores_of_another_shape() -> None:
    with pytest.raises(UsageError, match=r"'fc' got scores of shape \(6,\).*\(2, 3\)"):
        Layer("fc", (2, 3), np.zeros(6))


def test_a_layer_is_frozen_and_equal_only_to_itself() -> None:
    # By content it could not be: an array has no one truth value, and no hash.
    layer, twin = (Layer("a", (2,), np.ones(2)) for _ in range(2))
    assert layer != twin
    assert len({layer, twin, layer}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.name = "b"


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UsageError, match=r"'uniform'\?\): accepted are uniform, erk, global, lamp, owl"):
        parse_allocation("uniforn")
    with pytest.raises(UsageError, match=r"Budget\(costs, limit=\.\.\.\)"):
        parse_allocation("budget")
