"""From scores to masks, and what methods of every framework share on the way."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isogrid.allocation import ERK, Global, Uniform
from isogrid.patterns import NofM, Unstructured, active_count
from isogrid.selection import generator, select


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.99), st.floats(0, 0.99), st.sampled_from([Global(), Uniform(), ERK()]))
def test_what_is_pruned_stays_pruned_and_the_count_is_kept(seed: int, first: float, second: float, allocation) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    scores = {"a": rng.random((4, 6)), "b": rng.random((8, 4))}
    dense = {name: np.ones(array.shape, bool) for name, array in scores.items()}
    low, high = sorted((first, second))
    once = select(dense, scores, low, Unstructured(), allocation)
    twice = select(once, scores, high, Unstructured(), allocation)
    assert sum(mask.sum() for mask in twice.values()) <= active_count(56, high)
    assert not any((twice[name] & ~once[name]).any() for name in scores)


def test_a_pattern_gets_no_more_than_it_implies() -> None:
    held = {"a": np.ones((2, 8), bool)}
    mask = select(held, {"a": np.arange(16.0).reshape(2, 8)}, 0.9, NofM(2, 4), Global())["a"]
    assert mask.mean() == 0.5
    assert NofM(2, 4).conforms(mask)


def test_negative_scores_of_active_weights_beat_what_is_pruned() -> None:
    held = {"a": np.array([[True, True, False, False]])}
    mask = select(held, {"a": np.array([[-5.0, -9.0, 3.0, 4.0]])}, 0.75, Unstructured(), Global())["a"]
    assert mask.tolist() == [[True, False, False, False]]


def test_random_numbers_depend_on_nothing_else() -> None:
    assert generator(1, 2, "grow", "a").random() == generator(1, 2, "grow", "a").random()
    drawn = {generator(*key).random() for key in [(1, 2, "grow", "a"), (2, 2, "grow", "a"), (1, 3, "grow", "a")]}
    drawn |= {generator(1, 2, "start", "a").random(), generator(1, 2, "grow", "b").random()}
    assert len(drawn) == 5
