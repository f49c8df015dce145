"""Inputs as rows: times the flattened weight they are what the layer computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isogrid.masks import find_targets
from isogrid.sparsify import SparseLayer
from isogrid.sparsify.calibrated import rows
from isogrid.sparsify.calibrated.calls import Call, Watch
from isogrid.sparsify.calibrated.matrix import MatrixView


def watched(model: nn.Module, x: Any) -> tuple[list[Call], Any]:
    layers = [
        SparseLayer(target, torch.ones_like(target.parameter, dtype=torch.bool))
        for target in find_targets(model, targets=".*weight")
    ]
    calls: list[Call] = []
    with torch.no_grad(), Watch(layers, calls.append):
        answer = model(x)
    return calls, answer


def product(call: Call, out: Tensor) -> Tensor:
    """The layer's output ``[samples, outputs, *places]`` from the rows."""
    portions = list(call.geometry.rows(call.inputs))
    inputs = torch.cat(portions, dim=1)
    layer = call.layer
    weight = MatrixView(layer.target.shape, len(inputs)).matrix(layer.canonical_weight)
    flat = (inputs @ weight.mT).permute(1, 0, 2).flatten(1)
    return flat.reshape(out.shape[0], *out.shape[2:], out.shape[1]).movedim(-1, 1)


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "plain": (nn.Conv2d(3, 4, 3, bias=False), (2, 3, 7, 6)),
    "strided": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), (2, 3, 7, 6)),
    "dilated": (nn.Conv2d(2, 4, 3, dilation=(2, 1), padding=2, bias=False), (2, 2, 8, 6)),
    "same": (nn.Conv2d(2, 4, (4, 3), padding="same", dilation=(1, 2), bias=False), (1, 2, 6, 5)),
    "valid": (nn.Conv2d(2, 4, 2, padding="valid", bias=False), (1, 2, 6, 5)),
    "circular": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular", bias=False), (2, 2, 5, 5)),
    "reflected, same": (nn.Conv1d(2, 4, 4, padding="same", padding_mode="reflect", bias=False), (2, 2, 9)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1, bias=False), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 5, 5)),
    "one axis": (nn.Conv1d(3, 4, 3, stride=2, bias=False), (2, 3, 9)),
    "three axes": (nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 1), bias=False), (2, 2, 3, 4, 5)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, bias=False), (2, 3, 4, 5)),
    "transposed, strided": (
        nn.ConvTranspose2d(3, 4, (3, 4), stride=(2, 3), padding=(1, 2), output_padding=(1, 0), bias=False),
        (2, 3, 4, 5),
    ),
    "transposed, dilated": (nn.ConvTranspose1d(2, 3, 3, stride=2, dilation=2, bias=False), (2, 2, 5)),
    "transposed, cropped": (nn.ConvTranspose1d(2, 3, 2, padding=3, bias=False), (2, 2, 9)),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("chunk", [rows.CHUNK, 100, 1])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_rows_times_the_weight_is_the_convolution(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", chunk)
    model, shape = CONVOLUTIONS[kind]
    torch.manual_seed(0)
    (call,), out = watched(model, torch.randn(shape))
    assert call.whole
    torch.testing.assert_close(product(call, out).sum(), out.sum())
    if chunk == rows.CHUNK and chunk > 1:
        torch.testing.assert_close(product(call, out), out)


def test_small_chunks_hold_the_same_rows_in_the_same_order_for_one_sample() -> None:
    torch.manual_seed(0)
    (call,), _ = watched(nn.Conv2d(2, 4, 3), torch.randn(1, 2, 6, 5))
    whole = torch.cat(list(call.geometry.rows(call.inputs)), dim=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "CHUNK", 60)
        portions = list(call.geometry.rows(call.inputs))
    assert len(portions) == 4
    assert torch.equal(torch.cat(portions, dim=1), whole)


def test_a_sample_without_a_batch_is_one_row_or_one_image() -> None:
    (call,), _ = watched(nn.Linear(3, 2), torch.randn(3))
    assert next(call.geometry.rows(call.inputs)).shape == (1, 1, 3)
    (call,), _ = watched(nn.Conv2d(2, 4, 3), torch.randn(2, 5, 5))
    assert next(call.geometry.rows(call.inputs)).shape == (1, 9, 18)
