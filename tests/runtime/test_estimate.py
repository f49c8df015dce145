from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.runtime.cost import Work, fewest_nanoseconds
from isogrid.runtime.estimate import Latency


@torch.no_grad()
def pruned(module: nn.Module, density: float) -> nn.Module:
    for weight in module.parameters():
        if weight.dim() > 1:
            flat = weight.flatten()
            flat[torch.randperm(flat.numel())[round(density * flat.numel()) :]] = 0
            weight.copy_(flat.view_as(weight))
    return module


def test_it_is_the_sum_of_the_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 10))
    found = Latency(model, (torch.zeros(2, 3, 8, 8),))(model)
    conv = Work(8, 27, 8 * 27, 2 * 64, 2 * 3 * 64)
    linear = Work(10, 512, 5120, 2, 1024)
    assert found == pytest.approx((fewest_nanoseconds(conv) + fewest_nanoseconds(linear)) / 1e6)


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (nn.Linear(512, 512), torch.zeros(4, 512)),
        (nn.Conv2d(64, 64, 3), torch.zeros(1, 64, 9, 9)),
        (nn.Conv1d(64, 64, 3), torch.zeros(1, 64, 90)),
        (nn.LSTM(128, 256), torch.zeros(5, 1, 128)),
        (nn.GRU(128, 256, batch_first=True), torch.zeros(1, 5, 128)),
        (nn.TransformerEncoderLayer(128, 4, 512, batch_first=True), torch.zeros(1, 16, 128)),
    ],
)
def test_zeros_make_it_less_and_the_model_is_left_as_it_is(model: nn.Module, example: torch.Tensor) -> None:
    model.train()
    latency = Latency(model, (example,))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    dense = latency(model)
    assert latency(model) == dense
    sparser = [latency(pruned(model, density)) for density in (0.3, 0.1, 0.02)]
    assert dense > sparser[0] > sparser[1] > sparser[2] > 0


def test_steps_of_a_recurrent_layer_count() -> None:
    model = nn.GRU(64, 256)
    one, ten = (Latency(model, (torch.zeros(steps, 1, 64),))(model) for steps in (1, 10))
    assert 6 * one < ten < 10 * one


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    model = Twice()
    example = (torch.zeros(1, 64),)
    assert Latency(model, example)(model) == pytest.approx(2 * Latency(model.layer, example)(model.layer))


def test_an_encoder_layer_counts_all_its_products() -> None:
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
    shapes = ((384, 128), (128, 128), (512, 128), (128, 512))
    works = [Work(rows, columns, rows * columns, 16, 16 * columns) for rows, columns in shapes]
    expected = sum(map(fewest_nanoseconds, works)) / 1e6
    assert Latency(layer, (torch.zeros(1, 16, 128),))(layer) == pytest.approx(expected)
    assert torch.backends.mha.get_fastpath_enabled()
