"""The exchange of weights, on arrays: where it starts, what moves, and what is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isogrid.patterns import FanIn
from isogrid.rules.dynamic import RigLRule, SETRule
from rules.arrays import ArrayState


def weights(seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(8, 16)), rng.normal(size=(4, 8))]


class Given(RigLRule):
    """Grows by promises that the test gives."""

    def promise(self, state: Any, layer: Any) -> Any:
        return state.promises.get(layer.name)


def test_it_starts_from_random_masks_of_exactly_the_sparsity() -> None:
    state = ArrayState(*weights())
    rule = SETRule(sparsity=0.75)
    rule.plant(state)
    assert state.active == 40
    dense, small = (layer.active / layer.size for layer in state.layers)
    assert small > dense  # the Erdos-Renyi-kernel shares
    again = ArrayState(*weights(1))
    rule.plant(again)
    assert all(np.array_equal(one.mask, other.mask) for one, other in zip(state.layers, again.layers, strict=True))


def test_masks_that_fit_are_kept_and_others_made_to() -> None:
    state = ArrayState(*weights())
    masks = {layer.name: np.zeros(layer.shape, np.bool_) for layer in state.layers}
    masks["a"][:, :4] = masks["b"][:, :2] = True
    state.write_masks(masks)
    SETRule(sparsity=0.75, pattern="fan_in").plant(state)
    assert all(np.array_equal(layer.mask, masks[layer.name]) for layer in state.layers)
    SETRule(sparsity=0.9, pattern="fan_in").plant(state)
    assert state.mask_sparsity >= 0.9 - 1e-9
    assert all(FanIn().conforms(layer.mask) for layer in state.layers)


def test_an_update_moves_its_share_and_keeps_the_count() -> None:
    state = ArrayState(*weights())
    rule = Given(sparsity=0.5, drop_fraction=0.5)
    rule.plant(state)
    active = {layer.name: layer.active for layer in state.layers}
    before = {layer.name: layer.mask for layer in state.layers}
    magnitude = {layer.name: np.abs(layer.weight) for layer in state.layers}
    state.promises = {"a": np.arange(128.0).reshape(8, 16)}  # type: ignore[attr-defined]
    rule.exchange(state)
    one, other = state.layers
    assert {layer.name: layer.active for layer in state.layers} == active
    assert np.array_equal(other.mask, before["b"])  # it promised nothing
    dropped, grown = before["a"] & ~one.mask, one.mask & ~before["a"]
    assert dropped.sum() == grown.sum() == active["a"] // 2 == state.numbers["exchanged"]
    assert magnitude["a"][dropped].max() <= magnitude["a"][before["a"] & one.mask].min()
    assert set(np.flatnonzero(grown)) == set(np.flatnonzero(~before["a"])[-int(grown.sum()) :])
    assert not one.weight[grown].any()
    told = rule.telemetry(state)
    assert (told["dropped"], told["drop_fraction"]) == (grown.sum(), 0.5)


@pytest.mark.parametrize("init", ["random", "zero"])
def test_grown_weights_start_as_wide_as_the_layer_was(init: str) -> None:
    state = ArrayState(*(5 * weight for weight in weights()))
    rule = SETRule(sparsity=0.5, drop_fraction=1.0, init=init)
    rule.plant(state)
    before = {layer.name: layer.mask for layer in state.layers}
    rule.exchange(state)
    grown = np.concatenate([layer.weight[layer.mask & ~before[layer.name]] for layer in state.layers])
    assert grown.size
    assert 4 < np.sqrt(np.square(grown).mean()) < 6 if init == "random" else not grown.any()


def test_updates_come_at_the_interval_and_end_with_the_schedule() -> None:
    state = ArrayState(*weights())
    assert [step for step in range(1, 101) if RigLRule(sparsity=0.5, delta_t=20).due(state, step)] == [20, 40, 60]
    assert [step for step in range(1, 101) if SETRule(sparsity=0.5, delta_t=25).due(state, step)] == [25, 50, 75]


@pytest.mark.parametrize("kind", [SETRule, RigLRule])
def test_by_default_what_has_grown_has_steps_to_grow_on(kind: type[SETRule | RigLRule]) -> None:
    """A hundredth of a short training would be a few steps: then 100, as in the paper, or a tenth of it."""
    rule = kind(sparsity=0.5)
    assert [rule.interval(total) for total in (1, 9, 20, 999, 1000, 10_000, 10_100)] == [1, 1, 2, 99, 100, 100, 101]
    assert kind(sparsity=0.5, delta_t=7).interval(10_000) == 7
    state = ArrayState(*weights())  # 100 steps
    due = [step for step in range(1, 101) if rule.due(state, step)]
    assert due == [step for step in range(10, 101, 10) if step < 100 * rule.schedule.end]
