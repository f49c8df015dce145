"""Layers replaced one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isogrid.errors import UnsupportedError
from isogrid.runtime.layers import SparseConv2d, SparseLinear
from isogrid.runtime.rewriting import by_cost
from isogrid.runtime.swapping import swap


def everything(*_: Any) -> tuple[bool, float, str]:
    return True, 2.0, "test"


class Own(nn.Linear):
    """Computes something else than a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


@pytest.fixture
def model() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 2, padding=1, padding_mode="reflect"),
        nn.Flatten(), nn.Linear(4 * 36, 16, bias=False), Own(16, 4),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) > 0.7)
    return model


def test_exact_types_are_replaced_and_the_rest_stays(model: nn.Module) -> None:
    example = torch.randn(2, 3, 10, 10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    swapped, choices = swap(model, everything, "fp32", (example,), {})
    assert [type(module) for module in swapped] == [
        SparseConv2d, SparseConv2d, nn.Conv2d, nn.Conv2d, nn.Flatten, SparseLinear, Own,
    ]  # fmt: skip
    assert [(choice.name, choice.kind, choice.choice, choice.fused) for choice in choices] == [
        ("0.weight", "conv2d", "sparse", "bias"),
        ("1.weight", "conv2d", "sparse", "bias"),
        ("2.weight", "depthwise", "dense", ""),
        ("5.weight", "linear", "sparse", ""),
    ]
    assert choices[0].macs == 2 * 25 * 8 * 27
    assert choices[0].sparsity == pytest.approx(float((model[0].weight == 0).float().mean()))
    x = torch.randn(5, 3, 10, 10)
    got = swapped(x)
    assert not got.requires_grad
    torch.testing.assert_close(got, model(x).detach(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_that_is_one_layer() -> None:
    layer = nn.Linear(8, 4).eval()
    swapped, (choice,) = swap(layer, everything, "fp32", (torch.randn(2, 8),), {})
    assert isinstance(swapped, SparseLinear)
    assert choice.name == "weight"


def test_what_is_told_by_name(model: nn.Module) -> None:
    told = {"0.weight": "dense", "1.weight": "sparse", "5.weight": "sparse"}
    _, choices = swap(model, by_cost(told), "fp32", (torch.randn(2, 3, 10, 10),), {})
    assert {c.name: c.choice for c in choices if c.kind != "depthwise"} == told


def test_layers_that_the_example_does_not_reach_are_left() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor, *, flip: bool) -> Tensor:
            result: Tensor = -self.used(x) if flip else self.used(x)
            return result

    swapped, choices = swap(Partly().eval(), everything, "fp32", (torch.randn(2, 8),), {"flip": True})
    assert [choice.name for choice in choices] == ["used.weight"]
    assert type(swapped.unused) is nn.Linear


def test_values_are_stored_as_asked(model: nn.Module) -> None:
    swapped, _ = swap(model, everything, "int8", (torch.randn(2, 3, 10, 10),), {})
    assert swapped[5].values.dtype == torch.int8


def test_weights_that_cannot_be_rounded_are_named(model: nn.Module) -> None:
    with torch.no_grad():
        model[5].weight[0, 0] = 1e6
    with pytest.raises(UnsupportedError, match=r"^5\.weight holds 1e\+06, beyond 65504"):
        swap(model, everything, "fp16", (torch.randn(2, 3, 10, 10),), {})


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_layers_without_weights_are_left() -> None:
    model = nn.Sequential(nn.Linear(8, 0), nn.Linear(0, 5)).eval()
    swapped, choices = swap(model, everything, "fp32", (torch.randn(2, 8),), {})
    assert choices == []
    assert [type(layer) for layer in swapped] == [nn.Linear, nn.Linear]


def test_the_shapes_of_an_encoder_are_taken_without_nested_tensors() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    _, choices = swap(model, everything, "fp32", (torch.randn(2, 5, 8),), {"src_key_padding_mask": mask})
    assert [choice.name for choice in choices] == [f"layers.{i}.linear{j}.weight" for i in (0, 1) for j in (1, 2)]
