"""What an allocation promises."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conformance.outsiders import HalvesOfRows
from conformance.values import ValueConformance, seeded
from isogrid import allocation as vocabulary
from isogrid.allocation import Allocation, Layer, parse_allocation
from isogrid.errors import PatternError, UsageError
from isogrid.patterns import Block, Channel, FanIn, NofM, Pattern, Row, Unstructured, active_count

ANY_SHAPES = [(), (0,), (1,), (7,), (1, 1), (5, 0), (3, 5), (16, 3), (2, 3, 3, 3), (40, 12)]
EVEN_SHAPES = [(2, 4), (4, 4), (0, 4), (8, 12), (4, 4, 3, 3), (24, 16), (2, 64)]
STRUCTURED = [FanIn(), Row(), Channel(), Block(2, 1), Block(2, 4), HalvesOfRows()]

sparsities = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]))


def draw_layers(data: st.DataObject, shapes: list[tuple[int, ...]]) -> list[Layer]:
    """One to five layers with scores that tie often, within layers and across them."""
    chosen = data.draw(st.lists(st.sampled_from(shapes), min_size=1, max_size=5))
    return [
        Layer(f"layer{i}", shape, data.draw(hnp.arrays(np.float32, shape, elements=st.integers(0, 3))))
        for i, shape in enumerate(chosen)
    ]


class AllocationConformance(ValueConformance):
    """Set `allocation`, and whether it is `exact`: uses the whole budget, as far as the pattern's steps allow."""

    allocation: ClassVar[Allocation]
    exact: ClassVar[bool]
    parse = staticmethod(parse_allocation)

    @property
    def value(self) -> Allocation:
        return self.allocation

    def test_its_repr_is_the_code_that_makes_it(self) -> None:
        # An allocation may hold other values of its vocabulary.
        assert eval(repr(self.allocation), vars(vocabulary).copy()) == self.allocation

    def check(self, layers: list[Layer], sparsity: float, pattern: Pattern) -> int:
        """Check all that holds for any pattern; return how much of the budget is left."""
        counts = self.allocation.allocate(layers, sparsity, pattern)
        assert list(counts) == [layer.name for layer in layers]
        for layer in layers:
            active = counts[layer.name]
            assert type(active) is int
            assert 0 <= active <= layer.size
            assert pattern.mask(layer.scores, active).sum() == active
        return active_count(sum(layer.size for layer in layers), sparsity) - sum(counts.values())

    @seeded
    @given(st.data(), sparsities)
    def test_the_budget_holds(self, data: st.DataObject, sparsity: float) -> None:
        layers = draw_layers(data, ANY_SHAPES)
        left = self.check(layers, sparsity, Unstructured())
        assert left == 0 if self.exact else 0 <= left < len(layers)

    @seeded
    @given(st.data(), sparsities, st.sampled_from(STRUCTURED))
    def test_the_budget_holds_in_the_steps_of_a_pattern(
        self, data: st.DataObject, sparsity: float, pattern: Pattern
    ) -> None:
        layers = draw_layers(data, EVEN_SHAPES)
        left = self.check(layers, sparsity, pattern)
        steps = [pattern.grid(layer.shape).step for layer in layers]
        assert 0 <= left < max(1, max(steps) if self.exact else sum(steps) + len(steps))

    @seeded
    @given(st.data(), sparsities)
    def test_an_implied_sparsity_is_what_every_layer_gets(self, data: st.DataObject, sparsity: float) -> None:
        layers = draw_layers(data, EVEN_SHAPES)
        counts = self.allocation.allocate(layers, sparsity, NofM(1, 4))
        assert counts == {layer.name: layer.size // 4 for layer in layers}

    @seeded
    @given(st.data(), st.sampled_from([Unstructured(), *STRUCTURED]))
    def test_nothing_and_everything(self, data: st.DataObject, pattern: Pattern) -> None:
        layers = draw_layers(data, EVEN_SHAPES)
        assert self.allocation.allocate(layers, 0.0, pattern) == {layer.name: layer.size for layer in layers}
        assert self.allocation.allocate(layers, 1.0, pattern) == {layer.name: 0 for layer in layers}

    @seeded
    @given(st.data(), sparsities)
    def test_the_same_layers_give_the_same_counts(self, data: st.DataObject, sparsity: float) -> None:
        layers = draw_layers(data, EVEN_SHAPES)
        scores = [layer.scores.copy() for layer in layers]
        counts = self.allocation.allocate(layers, sparsity)
        assert all(np.array_equal(layer.scores, before) for layer, before in zip(layers, scores, strict=True))
        flipped = [Layer(layer.name, layer.shape, np.flip(np.flip(layer.scores).copy())) for layer in layers]
        doubled = [Layer(layer.name, layer.shape, layer.scores.astype(np.float64)) for layer in layers]
        for same in (iter(layers), flipped, doubled):
            assert self.allocation.allocate(same, sparsity) == counts

    def test_one_layer_gets_the_whole_budget(self) -> None:
        scores = np.random.default_rng(0).normal(size=(30, 11))
        for sparsity in np.linspace(0, 1, 23).tolist():
            counts = self.allocation.allocate([Layer("only", scores.shape, scores)], sparsity)
            assert counts == {"only": active_count(scores.size, sparsity)}

    def test_no_layers_and_empty_layers(self) -> None:
        assert self.allocation.allocate([], 0.5) == {}
        empty = Layer("empty", (0, 4), np.zeros((0, 4)))
        assert self.allocation.allocate([empty], 0.5) == {"empty": 0}

    def test_scores_are_used_only_where_they_are_said_to_be_needed(self) -> None:
        scores = np.random.default_rng(0).normal(size=(2, 6, 8))
        scored = [Layer("a", (6, 8), scores[0]), Layer("b", (6, 8), scores[1])]
        bare = [Layer(layer.name, layer.shape) for layer in scored]
        if self.allocation.needs_scores:
            with pytest.raises(UsageError, match=f"'a' has no scores: allocation {self.allocation}"):
                self.allocation.allocate(bare, 0.5)
            scores[1, 0, 0] = np.nan
            with pytest.raises(PatternError, match=r"'b'.* 1 of 48 scores are not finite"):
                self.allocation.allocate(scored, 0.5)
        else:
            assert self.allocation.allocate(bare, 0.5) == self.allocation.allocate(scored, 0.5)

    @pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan])
    def test_a_sparsity_outside_0_to_1_is_refused(self, sparsity: float) -> None:
        layers = [Layer("a", (2, 4), np.ones((2, 4)))]
        for pattern in (Unstructured(), NofM(2, 4)):
            with pytest.raises(UsageError, match="from 0"):
                self.allocation.allocate(layers, sparsity, pattern)

    def test_layers_of_one_name_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"must differ, got \['a', 'a'\]"):
            self.allocation.allocate([Layer("a", (2,), np.ones(2))] * 2, 0.5)

    def test_a_pattern_that_does_not_fit_names_the_layer(self) -> None:
        layers = [Layer("good", (2, 4), np.ones((2, 4))), Layer("odd", (2, 5), np.ones((2, 5)))]
        with pytest.raises(PatternError, match=r"'odd'.*multiple of 4"):
            self.allocation.allocate(layers, 0.5, NofM(2, 4))
