"""Weights are seen wherever they are applied, and seeing changes no answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from isogrid.errors import UnsupportedError
from isogrid.masks import find_targets
from isogrid.sparsify import SparseLayer
from isogrid.sparsify.calibrated.calls import Call, Watch


def watched(model: nn.Module, *args: Tensor, **kwargs: Tensor) -> tuple[list[Call], Tensor]:
    layers = [
        SparseLayer(target, torch.ones_like(target.parameter, dtype=torch.bool)) for target in find_targets(model)
    ]
    calls: list[Call] = []
    with torch.no_grad(), Watch(layers, calls.append):
        answer = model.eval()(*args, **kwargs)
    return calls, answer[0] if isinstance(answer, tuple) else answer


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 8), (5, 8)])
def test_attention_shows_both_its_projections(batch_first: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    x = torch.randn(shape)
    calls, answer = watched(model, x, x, x)
    assert [(call.layer.name, call.start, call.rows) for call in calls] == [
        ("in_proj_weight", 0, 24),
        ("out_proj.weight", 0, 8),
    ]
    assert calls[0].inputs.numel() == calls[1].inputs.numel() == x.numel()
    torch.testing.assert_close(answer, model(x, x, x)[0])
    told = calls[1].inputs @ model.out_proj.weight.T + model.out_proj.bias
    torch.testing.assert_close(told.transpose(0, 1) if batch_first and x.dim() == 3 else told, answer)


def test_attention_over_other_inputs_shows_slices_of_its_rows() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    query, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    calls, answer = watched(model, query, memory, memory)
    assert [(call.start, call.rows) for call in calls] == [(0, 8), (8, 8), (16, 8), (0, 8)]
    assert [call.inputs.shape[0] for call in calls[:3]] == [3, 5, 5]  # the function itself is sequence first
    torch.testing.assert_close(answer, model(query, memory, memory)[0])


def test_attention_with_inputs_of_other_widths_shows_each_projection() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
    x = (torch.randn(2, 3, 8), torch.randn(2, 5, 6), torch.randn(2, 5, 4))
    calls, answer = watched(model, *x)
    assert [call.layer.name for call in calls] == [
        "q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight",
    ]  # fmt: skip
    torch.testing.assert_close(answer, model(*x)[0])


def test_encoder_layers_take_no_fast_path() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    x = torch.randn(2, 5, 8)
    calls, answer = watched(model, x)
    assert len(calls) == 8
    with torch.no_grad():
        torch.testing.assert_close(answer, model(x))


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(4, 6)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        one, two = self.both.weight.chunk(2)
        return functional.linear(input=x, weight=one) + functional.linear(y, two, self.both.bias[3:])


def test_slices_of_a_weight_are_known_by_where_they_start() -> None:
    calls, _ = watched(Sliced(), torch.randn(2, 4), torch.randn(3, 2, 4)[0])
    assert [(call.start, call.rows, call.whole) for call in calls] == [(0, 3, False), (3, 3, False)]


def test_other_uses_of_a_weight_are_not_mistaken_for_a_layer() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.inner.weight.T) + functional.linear(x, self.inner.weight.clone())

    assert watched(Other(), torch.randn(2, 4))[0] == []


def test_transposed_convolutions_of_several_groups_are_refused_by_name() -> None:
    model = nn.ConvTranspose2d(4, 8, 3, groups=2)
    with pytest.raises(UnsupportedError, match="weight belongs to a transposed convolution of 2 groups"):
        watched(model, torch.randn(1, 4, 5, 5))
