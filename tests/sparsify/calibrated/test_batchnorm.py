"""Running statistics follow what pruning changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isogrid.errors import DataError, UsageError
from isogrid.sparsify import OneShot, SparseGPT, prune, reestimate_batch_norm


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip


def trained(batches: list[Tensor]) -> nn.Sequential:
    """Its running statistics are those of the data."""
    model = network()
    with torch.no_grad():
        for _ in range(20):
            for x in batches:
                model(x)
    return model.eval()


def images(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(16, 3, 8, 8, generator=generator) + 1 for _ in range(count)]


def test_they_become_the_average_over_the_batches() -> None:
    layer = nn.Sequential(nn.BatchNorm1d(2)).eval()
    batches = [torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([[0.0, 7.0], [4.0, 9.0], [8.0, 8.0]])]
    assert reestimate_batch_norm(layer, batches) == ["0"]
    assert layer[0].running_mean.tolist() == [3.0, 6.5]
    assert layer[0].running_var.tolist() == [9.0, 0.5]


def test_nothing_else_changes() -> None:
    model = network()
    model[1].momentum = 0.3
    model[4].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[Any] = []

    def forward(module: nn.Module, batch: Any) -> Any:
        seen.append(batch)
        return module(batch["x"])

    assert reestimate_batch_norm(model, [{"x": images(1)[0]}], forward) == ["1", "4"]
    assert len(seen) == 1
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var", "4.running_mean", "4.running_var"}
    assert (model[1].momentum, model[4].momentum) == (0.3, 0.1)
    assert [module.training for module in model] == [True] * 4 + [False] + [True] * 3


def test_layers_without_running_statistics_are_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2))
    assert reestimate_batch_norm(model, [torch.randn(4, 2)]) == []


def test_after_pruning_they_are_nearer_to_what_the_layers_see() -> None:
    model = trained(images(8))
    calibration = images(4, seed=1)
    kept = trained(images(8))
    prune(kept, OneShot(sparsity=0.7), data=calibration, batch_norm="keep")
    prune(model, OneShot(sparsity=0.7), data=calibration)
    truth = trained(images(8))
    truth.load_state_dict(kept.state_dict())
    reestimate_batch_norm(truth, images(8))
    for index in (1, 4):
        for name in ("running_mean", "running_var"):
            wanted, old, new = (getattr(m[index], name) for m in (truth, kept, model))
            assert float((new - wanted).norm()) < 0.35 * float((old - wanted).norm()), (index, name)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), kept.parameters(), strict=True))


@pytest.mark.parametrize("method", [OneShot(sparsity=0.0), SparseGPT(sparsity=0.0)])
def test_where_nothing_is_pruned_training_keeps_the_last_word(method: Any) -> None:
    model = trained(images(8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prune(model, method, data=[images(1)[0][:3]])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_channels_that_stop_or_start_to_vary_get_the_variance_that_is_seen() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)).eval()
    model[0].weight.data = torch.tensor([[1.0, 1.0], [5.0, 5.0]])
    prune(model, OneShot(sparsity=0.5), data=[torch.randn(20, 2, generator=torch.Generator().manual_seed(0))])
    assert model[0].weight[0].tolist() == [0.0, 0.0]
    assert model[1].running_var.tolist() == [0.0, 1.0]
    assert bool(torch.isfinite(model(torch.randn(3, 2))).all())


def test_without_data_there_is_nothing_to_follow() -> None:
    model = trained(images(2))
    before = model[1].running_mean.clone()
    prune(model, OneShot(sparsity=0.5))
    assert torch.equal(model[1].running_mean, before)


def test_a_single_number_a_channel_has_no_variance() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2)).eval()
    with pytest.raises(DataError, match="accepted are batches of two samples or more"):
        reestimate_batch_norm(model, [torch.randn(1, 2)])
    assert model[0].running_mean.tolist() == [0.0, 0.0]
    assert not model[0].training


def test_other_errors_of_the_model_are_its_own() -> None:
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        reestimate_batch_norm(nn.Sequential(nn.BatchNorm1d(2)), [torch.randn(1, 2, 3, 4)])


def test_no_batch_is_refused() -> None:
    with pytest.raises(DataError, match="holds no batch"):
        reestimate_batch_norm(network(), [])


def test_other_words_are_refused() -> None:
    with pytest.raises(UsageError, match="batch_norm='yes'; accepted are 'reestimate' and 'keep'"):
        prune(network(), OneShot(sparsity=0.5), batch_norm="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("samples", [8, 64])
def test_a_channel_without_a_filter_passes_on_what_it_did_in_training(samples: int) -> None:
    """Its variance is all but zero, which would magnify an error of the mean a hundredfold."""
    model = trained(images(8))
    method = OneShot(sparsity=0.5, pattern="row", allocation="uniform")
    prune(model, method, data=[images(1, seed=5)[0][:samples]])
    dead = ~model[0].weight.flatten(1).any(1)
    assert int(dead.sum()) == 4
    normalised = model[:2](images(1, seed=9)[0])[:, dead]
    assert float(normalised.detach().abs().max()) < 0.5
