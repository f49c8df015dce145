"""Which units go, and how many."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isogrid.structure.choosing import Budget, choose
from isogrid.structure.groups import Group


def make(name: str, count: int, start: int, kind: str = "units", width: int = 1) -> Group:
    return Group(name, kind, tuple(range(start, start + count)), width, ((name, 0),))


@given(
    count=st.integers(1, 40),
    share=st.floats(0, 0.99),
    minimum=st.integers(1, 5),
    round_to=st.integers(1, 9),
    dead=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_what_stays_is_enough_round_and_the_best(
    count: int, share: float, minimum: int, round_to: int, dead: int, seed: int
) -> None:
    group = make("a", count, 0)
    scores = {"a": torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)}
    lifeless = set(range(min(dead, count)))
    gone = choose([group], scores, lifeless, Budget({"a": share}, False, minimum, round_to)).get("a", [])
    kept = [unit for unit in group.units if unit not in gone]
    assert len(kept) == count or (len(kept) % round_to == 0 and len(kept) >= minimum)
    assert kept
    assert len(gone) <= max(len(lifeless), share * count + 1e-6)
    if lifeless - set(gone):
        assert set(gone) <= lifeless
    else:
        living = [float(scores["a"][unit]) for unit in gone if unit not in lifeless]
        assert max(living, default=0) <= min(float(scores["a"][unit]) for unit in kept)


def test_fractions_are_of_the_decimal_number_that_was_written() -> None:
    group = make("a", 10, 0)
    scores = {"a": torch.arange(10, dtype=torch.float64)}
    for tenths in range(10):
        gone = choose([group], scores, set(), Budget({"a": tenths / 10}, False, 1, 1)).get("a", [])
        assert gone == list(range(tenths))


def test_ties_go_to_the_higher_position() -> None:
    scores = {"a": torch.tensor([1.0, 1.0, 0.5, 1.0], dtype=torch.float64)}
    assert choose([make("a", 4, 0)], scores, set(), Budget({"a": 0.5}, False, 1, 1)) == {"a": [2, 3]}


def test_heads_are_not_rounded_and_wide_units_count_their_outputs() -> None:
    scores = {name: torch.arange(6, dtype=torch.float64) for name in "abc"}
    groups = [make("a", 6, 0, "heads", 64), make("b", 6, 6, "channels", 4), make("c", 6, 12)]
    gone = choose(groups, scores, set(), Budget(dict.fromkeys("abc", 0.5), False, 1, 8))
    assert {name: len(units) for name, units in gone.items()} == {"a": 3, "b": 2}


def test_a_ranking_over_all_groups_compares_scores_by_the_mean_of_their_group() -> None:
    scores = {
        "a": torch.tensor([100.0, 300.0, 200.0, 400.0], dtype=torch.float64),
        "b": torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64),
    }
    groups = [make("a", 4, 0), make("b", 4, 4)]
    gone = choose(groups, scores, set(), Budget({"a": 0.25, "b": 0.25}, True, 1, 1))
    assert gone == {"a": [0, 2]}
    gone = choose(groups, scores, set(), Budget({"a": 0.75, "b": 0.75}, True, 2, 1))
    assert {name: len(units) for name, units in gone.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("together", [False, True])
def test_groups_without_a_share_lose_only_what_is_dead(together: bool) -> None:
    groups = [make("a", 4, 0), make("b", 4, 4)]
    scores = {"a": torch.arange(4, dtype=torch.float64)}
    assert choose(groups, scores, {5}, Budget({"a": 0.5}, together, 1, 1)) == {"a": [0, 1], "b": [5]}
