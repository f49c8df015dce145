"""KeepZeros: which zeros it holds, and that it adds none."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from conformance.methods import WEIGHTS, MethodConformance
from conformance.training import OPTIMIZERS, STEPS, Run, assert_effective, assert_same_bits, small_model
from isogrid.errors import UsageError
from isogrid.patterns import active_count
from isogrid.penalties import L2
from isogrid.sparsify import KeepZeros, OneShot, Sparsifier, Usage, parse_method, prune


def pruned_model(seed: int = 0) -> nn.Sequential:
    model = small_model(seed)
    prune(model, OneShot(sparsity=0.7))
    return model


class TestKeepZeros(MethodConformance):
    method = KeepZeros()

    def test_it_can_be_aimed_at_another_sparsity(self) -> None:  # type: ignore[override]
        with pytest.raises(UsageError, match=r"KeepZeros cannot be aimed at a sparsity of 0.5"):
            self.method.at(0.5)

    def test_no_other_sparsity_is_accepted(self) -> None:  # type: ignore[override]
        assert self.method.final_sparsity is None
        assert dataclasses.fields(self.method) == ()


def test_its_name_makes_it() -> None:
    assert parse_method("keep") == KeepZeros()
    assert KeepZeros.usage is Usage.CLIMB
    with pytest.raises(UsageError, match="works after training"):
        prune(pruned_model(), KeepZeros())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_zeros_stay_and_no_other_comes(optimizer: str) -> None:
    run = Run(KeepZeros(), optimizer, model=pruned_model())
    masks = {name: p != 0 for name, p in run.model.named_parameters() if p.dim() == 2}
    moved = {name: p.clone() for name, p in run.model.named_parameters()}
    for _ in run.steps():
        assert_effective(run)
        assert_same_bits(run.sparsifier.masks, masks)
    counts = run.sparsifier.finalize()
    assert round(counts["sparsity"] * WEIGHTS) == WEIGHTS - active_count(WEIGHTS, 0.7)
    for name, mask in masks.items():
        assert bool((run.model.get_parameter(name) != moved[name])[mask].any())


def test_a_penalty_beside_it_does_not_add_zeros() -> None:
    run = Run(KeepZeros(), model=pruned_model(), penalty=L2(0.1)).finish()
    assert round(run.sparsifier.finalize()["sparsity"] * WEIGHTS) == WEIGHTS - active_count(WEIGHTS, 0.7)


def test_a_resumed_training_is_the_undisturbed_one() -> None:
    one = Run(KeepZeros(), model=pruned_model())
    for _ in one.steps(until=STEPS // 2):
        pass
    other = Run(KeepZeros(), model=pruned_model(seed=3)).load(copy.deepcopy(one.save()))
    assert_same_bits(other.finish().bits(), one.finish().bits())


def test_a_dense_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"KeepZeros found no zeros to keep in the 2 targets, the first of which is 0"):
        Run(KeepZeros())


def test_masks_that_are_given_are_held_and_not_the_weights_own_zeros() -> None:
    model = pruned_model()
    masks = {name: p != 0 for name, p in model.named_parameters() if p.dim() == 2}
    masks["0.weight"][0] = True  # active, and zero at the start
    run = Run(KeepZeros(), model=model, masks=masks).finish()
    assert_same_bits(run.sparsifier.masks, masks)
    assert bool(run.model.get_parameter("0.weight")[0].all())


def test_adopting_is_the_same() -> None:
    one = Run(KeepZeros(), model=pruned_model()).finish()
    assert_same_bits(one.bits(), Run(KeepZeros(), model=pruned_model(), adopt=True).finish().bits())


def test_a_layer_of_nothing_but_zeros_trains() -> None:
    model = pruned_model()
    torch.nn.init.zeros_(model.get_parameter("2.weight"))
    optimizer = OPTIMIZERS["adam"](model.parameters())
    sparsifier = Sparsifier(model, KeepZeros(), optimizer=optimizer, total_steps=1)
    model(torch.randn(8, 12)).square().mean().backward()
    optimizer.step()
    assert bool(model.get_parameter("2.weight").any())
    assert sparsifier.state.layers[1].active == 64
