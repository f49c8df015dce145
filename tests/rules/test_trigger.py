"""A check of the trigger, on averages that are small enough to judge by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogrid.patterns import active_count
from isogrid.rules.trigger import Judged, TriggerRule


def judged(average: Any, mask: Any = None, patience: Any = None) -> Judged:
    array = None if average is None else np.asarray(average, dtype=np.float32)
    shape = np.shape(mask if average is None else average)
    held = np.ones(shape, np.bool_) if mask is None else np.asarray(mask, dtype=np.bool_)
    return Judged(held, array, np.zeros(shape, np.int32) if patience is None else np.asarray(patience, np.int32))


def check(rule: TriggerRule, *layers: Judged, progress: float = 0.5) -> list[list[list[bool]]] | None:
    """The masks behind one check that started from no zeros."""
    named = {str(index): layer for index, layer in enumerate(layers)}
    masks = rule.judge(named, progress, (0.0, rule.target_sparsity))
    return None if masks is None else [mask.tolist() for mask in masks.values()]


def test_the_smallest_averages_go_first_and_the_cap_is_kept() -> None:
    rule = TriggerRule(sparsity=0.5, threshold=1.0, patience=1)
    assert check(rule, judged([[0.4, 0.1]]), judged([[0.3, 0.2]])) == [[[True, False]], [[True, False]]]


def test_patience_is_counted_and_starts_again_at_nought() -> None:
    rule = TriggerRule(sparsity=0.75, threshold=0.5, patience=2)
    layer = judged([[0.1, 0.1, 9.0, 9.0]], patience=[[0, 1, 1, 0]])
    assert check(rule, layer) == [[[True, False, True, True]]]
    assert layer.patience.tolist() == [[1, 2, 0, 0]]
    assert layer.patience.dtype == np.int32


def test_the_quantile_is_of_the_active_averages_of_all_layers() -> None:
    rule = TriggerRule(sparsity=0.9, quantile=0.5, patience=1)
    layers = judged([[1.0, 2.0, 0.0]], mask=[[True, True, False]]), judged([[3.0, 4.0]])
    assert check(rule, *layers) == [[[False, False, False]], [[True, True]]]  # the median of 1 to 4 is 2.5


def test_a_paced_check_lets_twice_as_many_settle_as_are_due_and_zeroes_no_more() -> None:
    rule = TriggerRule(sparsity=0.5, patience=1, schedule="linear")  # type: ignore[arg-type]
    layer = judged(np.arange(1.0, 21.0).reshape(1, 20))
    masks = check(rule, layer, progress=0.2)
    assert masks == [[[False] * 2 + [True] * 18]]  # a tenth of twenty
    assert np.count_nonzero(layer.patience) == 4


def test_where_the_ramp_ends_what_is_missing_goes_settled_or_not() -> None:
    rule = TriggerRule(sparsity=0.5, patience=9)
    assert check(rule, judged([[4.0, 1.0, 3.0, 2.0]]), progress=0.74) is None
    assert check(rule, judged([[4.0, 1.0, 3.0, 2.0]]), progress=0.75) == [[[True, False, True, False]]]


def test_a_layer_that_is_not_judged_goes_last() -> None:
    rule = TriggerRule(sparsity=0.75, patience=1, threshold=1e9)
    unseen = judged(None, mask=[[True, True]])
    assert check(rule, judged([[5.0, 6.0]]), unseen) == [[[False, False]], [[True, True]]]
    assert unseen.patience.tolist() == [[0, 0]]
    closing = TriggerRule(sparsity=0.75, patience=1)
    assert check(closing, judged([[5.0, 6.0]]), unseen, progress=1.0) == [[[False, False]], [[True, False]]]


def test_an_allocation_cannot_zero_what_has_not_settled() -> None:
    rule = TriggerRule(sparsity=0.5, threshold=0.5, patience=1, allocation="uniform")
    assert check(rule, judged([[0.1, 0.2]]), judged([[9.0, 8.0]])) == [[[False, True]], [[True, True]]]


def test_a_row_goes_when_all_of_it_has_settled_and_its_pruned_weights_do_not_count() -> None:
    rule = TriggerRule(sparsity=0.5, threshold=0.5, patience=1, pattern="row")
    layer = judged([[0.1, 9.0], [0.1, 0.1], [9.0, 9.0], [9.0, 9.0]])
    assert check(rule, layer) == [[[True, True], [False, False], [True, True], [True, True]]]


def test_revival_needs_more_than_the_mean_of_the_active_and_starts_patience_anew() -> None:
    rule = TriggerRule(sparsity=0.9, threshold=0.0, patience=1, revive=2.0)
    layer = judged([[1.0, 3.0, 4.0, 4.1]], mask=[[True, True, False, False]], patience=[[0, 0, 5, 5]])
    assert check(rule, layer, progress=0.5) == [[[True, True, False, True]]]
    assert layer.patience.tolist() == [[0, 0, 0, 0]]
    again = judged([[1.0, 3.0, 4.0, 4.1]], mask=[[True, True, False, False]])
    assert check(rule, again, progress=0.75) is None  # with the ramp's end


def test_nothing_is_revived_where_nothing_moves() -> None:
    rule = TriggerRule(sparsity=0.9, threshold=0.0, patience=2, revive=2.0)
    for average in ([[0.0, 1.0]], None):
        assert check(rule, judged(average, mask=[[True, False]])) == [[[True, False]]]
    assert check(rule, judged([[5.0, 1.0]], mask=[[False, False]])) == [[[False, False]]]


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.95), st.sampled_from(["unstructured", "row", "channel", "block:2x2"]))
def test_the_cap_is_never_passed_and_only_settled_weights_go(seed: int, sparsity: float, pattern: str) -> None:
    rng = np.random.default_rng(seed)
    rule = TriggerRule(sparsity=sparsity, pattern=pattern, quantile=0.7, patience=1)
    layers = {name: judged(rng.random((4, 6))) for name in "ab"}
    masks = rule.judge(layers, 0.5, (0.0, rule.target_sparsity))
    if masks is None:
        return
    assert sum(int(mask.sum()) for mask in masks.values()) >= active_count(48, sparsity)
    averages = np.concatenate([layer.average.ravel() for layer in layers.values() if layer.average is not None])
    for name, mask in masks.items():
        average = layers[name].average
        assert average is not None
        assert (average[~mask] <= np.quantile(averages, 0.7)).all()


@pytest.mark.parametrize("sparsity", [0.2, 0.5])
def test_a_cap_that_whole_rows_cannot_fill_is_not_passed(sparsity: float) -> None:
    rule = TriggerRule(sparsity=sparsity, threshold=1e9, patience=1, pattern="row")
    masks = rule.judge({"a": judged(np.arange(9.0).reshape(3, 3))}, 0.5, (0.0, sparsity))
    rows = [] if masks is None else masks["a"].all(axis=1).tolist()
    assert rows == ([] if sparsity == 0.2 else [False, True, True])
