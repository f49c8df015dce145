"""Static: where its masks come from, and what every method promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import Run, small_model
from isogrid.allocation import ERK, Layer
from isogrid.errors import TargetError
from isogrid.patterns import active_count
from isogrid.sparsify import Static


class TestStatic(TrainingMethodConformance):
    method = Static(sparsity=0.8)


class TestStaticUniform(TrainingMethodConformance):
    method = Static(sparsity=0.75, allocation="uniform", pattern="fan_in")


def given_masks() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(p.shape, generator=generator) < 0.3
        for name, p in small_model().named_parameters()
        if p.dim() == 2
    }


def test_random_masks_take_the_erdos_renyi_kernel_shares() -> None:
    run = Run(Static(sparsity=0.7))
    wanted = ERK().allocate([Layer("0.weight", (16, 12)), Layer("2.weight", (4, 16))], 0.7)
    assert {layer.name: layer.active for layer in run.state.layers} == wanted


def test_the_mask_is_there_before_the_first_step_and_never_moves() -> None:
    run = Run(Static(sparsity=0.7))
    masks = run.sparsifier.masks
    assert run.state.active == active_count(WEIGHTS, 0.7)
    for _ in run.steps():
        assert all(torch.equal(mask, masks[name]) for name, mask in run.sparsifier.masks.items())


def test_another_seed_draws_another_mask_and_no_layer_copies_another() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    one = Run(Static(sparsity=0.5), model=model, seed=1)
    drawn = list(one.sparsifier.masks.values())
    assert not torch.equal(drawn[0], drawn[1])
    again = Run(Static(sparsity=0.5), seed=1).sparsifier.masks["0.weight"]
    other = Run(Static(sparsity=0.5), seed=2).sparsifier.masks["0.weight"]
    assert not torch.equal(again, other)


def test_random_masks_are_spread_evenly() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(200, 100))
    mask = Run(Static(sparsity=0.9), model=model).sparsifier.masks["0.weight"]
    rows, columns = mask.float().mean(dim=1).numpy(), mask.float().mean(dim=0).numpy()
    assert np.abs(rows - 0.1).max() < 5 * np.sqrt(0.09 / 200)
    assert np.abs(columns - 0.1).max() < 5 * np.sqrt(0.09 / 100)


def test_given_masks_are_held_and_imply_the_sparsity() -> None:
    masks = given_masks()
    method = Static(masks=masks)
    active = sum(int(mask.sum()) for mask in masks.values())
    assert method.final_sparsity == 1 - active / WEIGHTS
    run = Run(method).finish()
    assert all(torch.equal(mask, masks[name]) for name, mask in run.sparsifier.masks.items())
    assert run.sparsifier.finalize()["sparsity"] == method.final_sparsity


def test_given_masks_are_copied() -> None:
    masks = given_masks()
    run = Run(Static(masks=masks))
    held = run.sparsifier.masks["0.weight"]
    masks["0.weight"].fill_(True)
    assert torch.equal(run.sparsifier.masks["0.weight"], held)


def test_given_masks_and_adopted_zeros_do_not_revive_one_another() -> None:
    masks = given_masks()
    model = small_model()
    model[0].weight.data[:8] = 0
    held = Run(Static(masks=masks), model=model, adopt=True).sparsifier.masks["0.weight"]
    assert torch.equal(held[8:], masks["0.weight"][8:])
    assert not held[:8].any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda masks: masks.pop("2.weight"), "The masks lack 2.weight; they must name exactly the targets"),
        (lambda masks: masks.update(more=torch.ones(1, dtype=torch.bool)), "The masks name more"),
        (lambda masks: masks.update({"2.weight": torch.ones(4, 16)}), r"The mask of 2\.weight is torch\.float32"),
        (
            lambda masks: masks.update({"2.weight": torch.ones(16, 4) > 0}),
            r"accepted is torch\.bool of shape \(4, 16\)",
        ),
    ],
)
def test_masks_that_do_not_fit_are_refused(change: object, said: str) -> None:
    masks = given_masks()
    change(masks)  # type: ignore[operator]
    with pytest.raises(TargetError, match=said):
        Run(Static(masks=masks))
