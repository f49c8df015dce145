"""AC/DC: its phases, what they do to masks and momentum, and what every method promises."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import STEPS, Run
from conformance.values import seeded
from isogrid.errors import TrainingError, UsageError
from isogrid.patterns import NofM, active_count
from isogrid.sparsify import ACDC, parse_method


class TestACDC(TrainingMethodConformance):
    method = ACDC(sparsity=0.8)
    forgets = True


class TestACDCInAPattern(TrainingMethodConformance):
    method = ACDC(pattern="2:4", warmup=0.0, phase=0.1)
    forgets = True


def test_the_phases_are_those_of_the_paper_on_imagenet() -> None:
    compressed = [10, 20, 30, 40, 50, 60, 70, 85]
    decompressed = [0, 15, 25, 35, 45, 55, 65, 75]
    wanted = sorted([(step, True) for step in compressed] + [(step, False) for step in decompressed])
    assert ACDC(sparsity=0.9).phases(100) == wanted


@pytest.mark.parametrize(
    ("options", "steps", "wanted"),
    [
        ({"warmup": 0.0}, 20, (0, 1)),
        ({"phase": 1.0}, 100, (0, 10, 75, 85)),
        ({"warmup": 0.5, "last_decompressed": 0.25, "last_compressed": 0.25}, 100, (0, 75)),
        ({"warmup": 0.5, "last_decompressed": 0.0, "last_compressed": 0.5}, 100, (0, 50)),
        ({"last_compressed": 0.0, "warmup": 0.2, "phase": 0.4}, 10, (0, 2, 9, 10)),
        ({"phase": 0.2}, 100, (0, 10, 32, 53, 75, 85)),
    ],
)
def test_phases_of_other_lengths(options: dict[str, float], steps: int, wanted: tuple[int, ...]) -> None:
    phases = ACDC(sparsity=0.9, **options).phases(steps)
    assert tuple(step for step, _ in phases)[: len(wanted)] == wanted
    assert phases[-1][1]


@given(lengths=st.lists(st.floats(0, 1), min_size=3, max_size=3), phase=st.floats(0.01, 1), steps=st.integers(1, 200))
@seeded
def test_phases_alternate_and_end_compressed(lengths: list[float], phase: float, steps: int) -> None:
    assume(sum(lengths) <= 1)
    warmup, decompressed, last = lengths
    phases = ACDC(
        sparsity=0.5, warmup=warmup, phase=phase, last_decompressed=decompressed, last_compressed=last
    ).phases(steps)
    assert phases[0][0] == 0
    assert phases[-1][1]
    for (start, before), (following, after) in itertools.pairwise(phases):
        assert start < following <= steps
        assert before != after


def test_masks_are_held_in_compressed_phases_and_lifted_in_the_others() -> None:
    run = Run(ACDC(sparsity=0.75), "sgd", steps=100)
    phases = dict(run.sparsifier.method.phases(100))  # type: ignore[attr-defined]
    supports = []
    for step in run.steps():
        if step in phases:
            compressed = phases[step]
            supports.append(run.sparsifier.masks)
        if step >= 10:
            assert run.state.active == (active_count(WEIGHTS, 0.75) if compressed else WEIGHTS)
            assert all(torch.equal(mask, supports[-1][name]) for name, mask in run.sparsifier.masks.items())
            assert run.sparsifier.telemetry()["compressed"] == compressed
        else:
            assert run.state.active == WEIGHTS
            assert run.sparsifier.telemetry()["compressed"] == 0
    first, last = supports[0], supports[-1]
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_what_is_kept_are_the_largest_magnitudes_of_the_whole_model() -> None:
    run, twin = Run(ACDC(sparsity=0.75), "sgd"), Run(ACDC(sparsity=0.0), "sgd")
    for each in (run, twin):
        for _ in each.steps(until=4):
            pass
    magnitudes = torch.cat([layer.weight.flatten().abs() for layer in twin.state.layers])
    kept = torch.zeros(WEIGHTS, dtype=torch.bool)
    kept[magnitudes.topk(WEIGHTS // 4).indices] = True
    assert torch.equal(torch.cat([layer.mask.flatten() for layer in run.state.layers]), kept)


@pytest.mark.parametrize("optimizer", ["sgd_momentum", "adam", "adagrad"])
def test_decompression_starts_weights_at_zero_and_the_optimiser_anew(optimizer: str) -> None:
    run = Run(ACDC(sparsity=0.75, phase=0.1), optimizer)
    lifted = next(step for step, compressed in run.sparsifier.method.phases(STEPS)[1:] if not compressed)  # type: ignore[attr-defined]
    for _ in run.steps(until=lifted - 1):
        pass
    pruned = [layer.pruned.clone() for layer in run.state.layers]
    run.step()
    for layer, held in zip(run.state.layers, pruned, strict=True):
        assert bool(held.any())
        assert not bool(layer.weight[held].any())
        start = 0.1 if optimizer == "adagrad" else 0.0
        assert all(bool((moment == start).all()) for moment in run.state.optimizer_state(layer))
    run.step()
    assert all(bool(layer.weight[held].any()) for layer, held in zip(run.state.layers, pruned, strict=True))


def test_momentum_may_be_kept() -> None:
    run = Run(ACDC(sparsity=0.75, phase=0.1, reset_momentum=False))
    lifted = next(step for step, compressed in run.sparsifier.method.phases(STEPS)[1:] if not compressed)  # type: ignore[attr-defined]
    for _ in run.steps(until=lifted - 1):
        pass
    pruned = [layer.pruned.clone() for layer in run.state.layers]
    run.step()
    for layer, held in zip(run.state.layers, pruned, strict=True):
        (momentum,) = run.state.optimizer_state(layer)
        assert bool((momentum[~held] != 0).all())
        assert not bool(momentum[held].any())


def test_without_a_warm_up_it_starts_compressed() -> None:
    assert Run(ACDC(sparsity=0.75, warmup=0.0)).state.active == active_count(WEIGHTS, 0.75)


def test_adopted_masks_are_held_until_the_first_decompression() -> None:
    masks = {"0.weight": torch.ones(16, 12, dtype=torch.bool), "2.weight": torch.ones(4, 16, dtype=torch.bool)}
    masks["0.weight"][:, :6] = False
    run = Run(ACDC(sparsity=0.5), masks=masks)
    phases = run.sparsifier.method.phases(STEPS)  # type: ignore[attr-defined]
    for _ in run.steps(until=phases[2][0] - 1):
        assert not bool(run.sparsifier.masks["0.weight"][:, :6].any())
    run.step()
    assert run.state.active == WEIGHTS


def test_the_end_holds_the_pattern() -> None:
    run = Run(ACDC(pattern="2:4")).finish()
    assert all(NofM(2, 4).conforms(layer.to_array(layer.mask)) for layer in run.state.layers)


def test_weights_that_are_not_finite_are_reported() -> None:
    run = Run(ACDC(sparsity=0.5, warmup=0.05))
    run.step()
    run.model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"0\.weight are not finite at step 2"):
        run.step()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"warmup": -0.1}, r"ACDC got warmup=-0\.1; accepted is a number from 0 to 1"),
        ({"phase": 0.0}, "ACDC got phase=0; accepted is a fraction of the training above 0"),
        ({"warmup": 0.9}, r"ACDC got warmup=0\.9, last_decompressed=0\.1 and last_compressed=0\.15, more than a whole"),
    ],
)
def test_lengths_that_are_not_accepted(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ACDC(sparsity=0.5, **options)


def test_it_has_a_name() -> None:
    assert parse_method("acdc", sparsity=0.9, phase=0.1, reset_momentum=False) == ACDC(
        0.9, phase=0.1, reset_momentum=False
    )
