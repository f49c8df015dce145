"""Pruning a trained model at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from conformance.methods import WEIGHTS
from conformance.training import small_model
from isogrid.errors import PatternError, TargetError, UsageError
from isogrid.masks import count_zeros
from isogrid.patterns import active_count, parse_pattern
from isogrid.penalties import L1
from isogrid.sparsify import Gradual, OneShot, prune


def test_the_report_is_what_the_model_holds() -> None:
    model = small_model()
    report = prune(model, OneShot(sparsity=0.8))
    counts = count_zeros(model)
    assert (report.sparsity, report.sparsity_of_model, report.nonzeros, report.parameters) == tuple(counts.values())
    assert report.parameters == WEIGHTS + 20
    assert report.nonzeros == active_count(WEIGHTS, 0.8) + 20
    for name, share in report.layers.items():
        weight = model.get_parameter(name)
        assert share == pytest.approx(float((weight == 0).float().mean()))
        assert torch.equal(report.masks[name], weight != 0)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


@given(st.floats(0, 0.99), st.sampled_from(["unstructured", "block:2x2", "row", "fan_in", "channel"]))
def test_the_sparsity_asked_is_the_least_one_gets(sparsity: float, pattern: str) -> None:
    layer = nn.Linear(8, 12, bias=False)
    report = prune(layer, OneShot(sparsity=sparsity, pattern=pattern, allocation="uniform"))
    step = parse_pattern(pattern).grid((12, 8)).step
    assert active_count(96, sparsity) - step < report.nonzeros <= active_count(96, sparsity)
    assert parse_pattern(pattern).conforms(report.masks["weight"].numpy())


def test_zeros_that_are_there_stay_and_count() -> None:
    model = small_model()
    first = prune(model, OneShot(sparsity=0.6))
    second = prune(model, OneShot(sparsity=0.3))
    assert all(torch.equal(first.masks[name], second.masks[name]) for name in first.masks)
    third = prune(model, OneShot(sparsity=0.9))
    assert all(not bool((third.masks[name] & ~first.masks[name]).any()) for name in first.masks)
    assert third.nonzeros == active_count(WEIGHTS, 0.9) + 20


def test_a_pattern_on_top_of_other_zeros_revives_none_of_them() -> None:
    layer = nn.Linear(16, 8, bias=False)
    prune(layer, OneShot(sparsity=0.8))
    zeros = layer.weight == 0
    report = prune(layer, OneShot(pattern="2:4"))
    assert not layer.weight[zeros].any()
    assert report.sparsity >= 0.8
    assert report.nonzeros > 0
    assert int((layer.weight != 0).reshape(8, 4, 4).sum(dim=2).max()) <= 2


def test_a_block_half_pruned_is_judged_by_what_is_left_of_it() -> None:
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[9.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    prune(layer, OneShot(sparsity=0.5, pattern="block:2x2"))
    assert layer.weight.tolist() == [[9.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_a_layer_of_nothing_but_zeros_is_not_a_mask() -> None:
    model = small_model()
    model[2].weight.data.zero_()
    report = prune(model, OneShot(sparsity=0.1))
    assert report.sparsity >= 64 / WEIGHTS


def test_targets_and_ignore_choose() -> None:
    model = small_model()
    report = prune(model, OneShot(sparsity=0.5), targets="0")
    assert list(report.layers) == ["0.weight"]
    assert bool((model[2].weight != 0).all())
    assert list(prune(small_model(), OneShot(sparsity=0.5), ignore="0").layers) == ["2.weight"]


def test_transposed_convolutions_are_cut_along_their_own_output_axis() -> None:
    layer = nn.ConvTranspose2d(6, 4, 3, bias=False)
    layer.weight.data = torch.arange(4.0).add(1).reshape(1, 4, 1, 1).expand(6, 4, 3, 3).clone()
    prune(layer, OneShot(sparsity=0.5, pattern="row"))
    assert layer.weight.abs().sum(dim=(0, 2, 3)).ne(0).tolist() == [False, False, True, True]


@pytest.mark.parametrize("method", [Gradual(sparsity=0.5), L1(), "one_shot", None])
def test_other_methods_are_refused(method: object) -> None:
    with pytest.raises(UsageError, match=r"accepted is a method that works after training, such as OneShot"):
        prune(small_model(), method)  # type: ignore[arg-type]


def test_nothing_is_touched_when_something_does_not_fit() -> None:
    model = small_model()
    before = [p.clone() for p in model.parameters()]
    for refused in (
        lambda: prune(model, OneShot(pattern="3:5")),
        lambda: prune(model, OneShot(sparsity=0.5), targets="1"),
    ):
        with pytest.raises((PatternError, TargetError)):
            refused()
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(UsageError, match=r"prune\(\) got seed=.*; accepted is a whole number >= 0"):
        prune(small_model(), OneShot(sparsity=0.5, score="random"), seed=seed)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_a_weight_is_passed_over_and_alone_it_is_nothing_to_prune() -> None:
    empty = nn.Sequential(nn.Linear(0, 5), nn.Linear(5, 4))
    assert prune(empty, OneShot(sparsity=0.5)).sparsity == 0.5
    with pytest.raises(TargetError, match="No parameter of this Linear can be pruned"):
        prune(nn.Linear(0, 5), OneShot(sparsity=0.5))
