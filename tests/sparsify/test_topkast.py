"""Top-KAST: its two sets, its penalty, and what every method promises."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import OPTIMIZERS, STEPS, Run, batch, loss_of, small_model
from isogrid.errors import UsageError
from isogrid.patterns import active_count
from isogrid.sparsify import Gradual, TopKAST


class TestTopKAST(TrainingMethodConformance):
    method = TopKAST(sparsity=0.75, delta_t=3)
    forgets = True


class TestTopKASTThatStopsExploring(TrainingMethodConformance):
    method = TopKAST(sparsity=0.7, backward_sparsity=0.5, explore_until=0.5, allocation="global", lam=0.0)
    forgets = True


class TestTopKASTInBlocks(TrainingMethodConformance):
    method = TopKAST(sparsity=0.5, pattern="block:2x2", backward_sparsity=0.25)
    forgets = True


def reference(method: TopKAST, optimizer: str, steps: int) -> nn.Module:
    """The method written down anew: masks by sorting, the forward pass through autograd, B alone moved."""
    model = small_model()
    layers: list[nn.Linear] = [model[0], model[2]]  # type: ignore[list-item]
    dense = [nn.Parameter(layer.weight.detach().clone()) for layer in layers]
    others = [layer.bias for layer in layers]
    moved = OPTIMIZERS[optimizer]([*dense, *others])

    def top(weight: Tensor, share: float) -> Tensor:
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[weight.detach().abs().flatten().argsort(descending=True)[: int(share * weight.numel() + 1e-9)]] = True
        return mask.reshape(weight.shape)

    density, wider = 1 - method.target_sparsity, 1 - method.trained_sparsity
    for step in range(steps):
        if step % (method.delta_t or 1) == 0:
            used = [top(weight, density) for weight in dense]
            trained = [top(weight, wider) for weight in dense]
        inputs, wanted = batch(step)
        effective = [weight + (weight * mask - weight).detach() for weight, mask in zip(dense, used, strict=True)]
        hidden = torch.tanh(nn.functional.linear(inputs, effective[0], others[0]))
        loss = nn.functional.mse_loss(nn.functional.linear(hidden, effective[1], others[1]), wanted)
        for weight, a, b in zip(dense, used, trained, strict=True):
            loss = loss + method.lam / 2 * ((weight[a] ** 2).sum() + (weight[b & ~a] ** 2).sum() / density)
        loss.backward()
        before = [weight.detach().clone() for weight in dense]
        for weight, mask in zip(dense, trained, strict=True):
            assert weight.grad is not None
            weight.grad[~mask] = 0
        moved.step()
        moved.zero_grad()
        for weight, old, mask in zip(dense, before, trained, strict=True):
            weight.data.copy_(torch.where(mask, weight.data, old))
    for layer, weight, mask in zip(layers, dense, [top(w, density) for w in dense], strict=True):
        layer.weight.data.copy_(weight.data * mask)
    return model


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum", "adam"])
def test_it_is_the_published_update(optimizer: str) -> None:
    # Shares that come out even in both layers, so that none needs rounding.
    method = TopKAST(sparsity=0.75, backward_sparsity=0.5, lam=0.05, delta_t=1)
    run = Run(method, optimizer)
    for _ in run.steps(until=12):
        pass
    wanted = reference(method, optimizer, 12)
    for name, weight in run.model.state_dict().items():
        assert torch.allclose(weight, wanted.state_dict()[name], atol=1e-6), name


def test_the_trained_set_holds_the_used_one_and_is_as_large_as_asked() -> None:
    run = Run(TopKAST(sparsity=0.8, backward_sparsity=0.5, delta_t=2), "sgd")
    for _ in run.steps(until=STEPS - 1):
        trained = [layer.buffers["trained"] for layer in run.state.layers]
        assert sum(int(mask.sum()) for mask in trained) == active_count(WEIGHTS, 0.5)
        assert all(not bool((layer.mask & ~mask).any()) for layer, mask in zip(run.state.layers, trained, strict=True))
        assert run.sparsifier.telemetry()["trained_sparsity"] == pytest.approx(0.5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd_momentum"])
def test_what_is_outside_of_the_trained_set_does_not_move(optimizer: str) -> None:
    run = Run(TopKAST(sparsity=0.8, delta_t=5), optimizer)
    moved = False
    for _ in range(STEPS):
        before = {layer.name: layer.buffers["dense"].clone() for layer in run.state.layers}
        trained = {layer.name: layer.buffers["trained"].clone() for layer in run.state.layers}
        run.step()
        for layer in run.state.layers:
            still = ~trained[layer.name]
            assert torch.equal(layer.buffers["dense"][still], before[layer.name][still])
            newcomers = trained[layer.name] & ~layer.mask
            moved |= not torch.equal(layer.buffers["dense"][newcomers], before[layer.name][newcomers])
    assert moved


def test_weights_take_each_others_place_until_exploration_ends() -> None:
    run = Run(TopKAST(sparsity=0.7, delta_t=1, explore_until=0.5), "adam")
    seen = [run.sparsifier.masks]
    seen += [run.sparsifier.masks for _ in run.steps()]
    changed = [any(not torch.equal(one[name], other[name]) for name in one) for one, other in itertools.pairwise(seen)]
    assert any(changed[: STEPS // 2])
    assert not any(changed[STEPS // 2 :])
    assert all(torch.equal(layer.buffers["trained"], layer.mask) for layer in run.state.layers)


def test_gradients_of_the_trained_set_are_all_that_a_clipping_norm_counts() -> None:
    run = Run(TopKAST(sparsity=0.8), "sgd")
    loss_of(run.model, 0).backward()
    plain = small_model()
    plain.load_state_dict(run.model.state_dict())
    loss_of(plain, 0).backward()
    for layer in run.state.layers:
        gradient = plain.get_parameter(layer.name).grad
        assert gradient is not None
        wanted = gradient.masked_fill(~layer.buffers["trained"], 0)
        assert torch.equal(run.model.get_parameter(layer.name).grad, wanted)  # type: ignore[arg-type]
        assert bool(wanted[layer.pruned].any())


def test_the_trained_set_is_twice_the_used_one_by_default_and_never_smaller() -> None:
    assert TopKAST(sparsity=0.95).trained_sparsity == pytest.approx(0.9)
    assert TopKAST(sparsity=0.3).trained_sparsity == 0
    assert TopKAST(sparsity=0.3, backward_sparsity=0.5).trained_sparsity == 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lam": -1.0}, "lam=-1.0"),
        ({"lam": float("nan")}, "lam=nan"),
        ({"backward_sparsity": 1.0}, "sparsity=1.0"),
        ({"explore_until": 1.5}, "explore_until=1.5"),
        ({"delta_t": 0}, "delta_t=0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TopKAST(sparsity=0.8, **options)


def test_it_learns_more_than_a_mask_of_the_start() -> None:
    moving = Run(TopKAST(sparsity=0.8, delta_t=1), "adam").finish()
    fixed = Run(TopKAST(sparsity=0.8, explore_until=0.0), "adam").finish()
    dense = Run(Gradual(sparsity=0.0), "adam").finish()
    losses = [float(loss_of(run.model, 5000).detach()) for run in (dense, moving, fixed)]
    assert losses == sorted(losses)
