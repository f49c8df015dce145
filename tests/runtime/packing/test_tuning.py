"""Decisions by the clock, with a clock that the test turns."""

import time
from types import SimpleNamespace

import pytest

from isogrid.runtime.packing.choosing import Decision
from isogrid.runtime.packing.tuning import tune

SHAPES = {"a": (8, 8), "b": (8, 8), "c": (4, 4), "d": (2, 2)}


def layers(**kinds):
    return [
        SimpleNamespace(name=name, kind=kinds.get(name, "linear"), shape=shape, nonzeros=1, parameters=9)
        for name, shape in SHAPES.items()
    ]


def decisions(*sparse):
    return {name: Decision(name in sparse, 2.0, "cost model") for name in SHAPES}


@pytest.fixture
def clock(monkeypatch):
    """A clock that models move when they are called."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def make(costs):
        """A model that takes what each layer costs, dense or sparse."""

        def build(chosen):
            seconds = sum(costs[name][name in chosen] for name in SHAPES)
            return lambda: now.__setitem__(0, now[0] + seconds)

        return build

    return make


def test_groups_that_gain_are_added_and_those_that_lose_are_dropped(clock):
    make = clock({"a": (0.02, 0.01), "b": (0.02, 0.01), "c": (0.02, 0.05), "d": (0.02, 0.03)})
    found, note = tune(layers(), decisions("c"), make, {})
    assert {name for name, decision in found.items() if decision.sparse} == {"a", "b"}
    assert note == "Measured: 1.33 times as fast as the original."
    assert {decision.reason for decision in found.values()} == {"measured"}


def test_a_model_that_lost_stays_dense_and_says_so(clock):
    costs = dict.fromkeys(SHAPES, (0.02, 0.03))
    found, note = tune(layers(), decisions(*SHAPES), clock(costs), {})
    assert not any(decision.sparse for decision in found.values())
    assert note.startswith("Measured: ")


def test_what_was_told_stands(clock):
    costs = dict.fromkeys(SHAPES, (0.02, 0.03))
    found, note = tune(layers(), decisions("d"), clock(costs), {"d": "sparse"})
    assert {name for name, decision in found.items() if decision.sparse} == {"d"}
    assert "so its layers stay dense" in note


def test_tables_are_not_timed(clock):
    costs = dict.fromkeys(SHAPES, (0.02, 0.01))
    found, _ = tune(layers(a="embedding"), decisions(), clock(costs), {})
    assert not found["a"].sparse
    assert found["b"].sparse
