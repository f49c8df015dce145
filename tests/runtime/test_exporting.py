from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import isogrid as ig
from isogrid.runtime import Session


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10)).eval().requires_grad_(False)
    for layer in (made[0], made[2]):
        layer.weight.mul_(torch.rand_like(layer.weight) < 0.08)
    return made


def _domains(path: Path) -> set[str]:
    return {node.domain for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_a_packed_file_computes_what_the_standard_one_does(model: nn.Module, tmp_path: Path, values: str) -> None:
    x = torch.randn(16, 64)
    standard = ig.export(model, tmp_path / "standard.onnx", x, values=values)
    packed = ig.export(model, tmp_path / "packed.onnx", x, packed=True, values=values)
    assert _domains(tmp_path / "standard.onnx") == {""}
    assert "isogrid" in _domains(tmp_path / "packed.onnx")
    assert packed == (tmp_path / "packed.onnx").stat().st_size < standard
    wanted, found = (Session(tmp_path / f"{name}.onnx")(x.numpy())[0] for name in ("standard", "packed"))
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(wanted), atol=1e-5, rtol=1e-4)


def test_a_dense_model_packed_is_a_standard_file(tmp_path: Path) -> None:
    ig.export(nn.Linear(64, 64), tmp_path / "packed.onnx", torch.zeros(4, 64), packed=True)
    assert _domains(tmp_path / "packed.onnx") == {""}


def test_nothing_is_left_of_a_packed_file_that_cannot_be_made(tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(ig.errors.UsageError):
        ig.export(model, tmp_path / "packed.onnx", torch.zeros(4, 64), packed=True, values="int3")
    assert list(tmp_path.iterdir()) == []


def test_a_packed_file_keeps_a_free_length(model: nn.Module, tmp_path: Path) -> None:
    example = torch.randn(2, 6, 64)
    ig.export(model, tmp_path / "packed.onnx", example, packed=True, free_axes={"input": {1: "length"}})
    assert "isogrid" in _domains(tmp_path / "packed.onnx")
    session = Session(tmp_path / "packed.onnx")
    assert session.inputs[0].shape == ("batch", "length", 64)
    for batch, length in ((1, 1), (3, 9)):
        x = torch.randn(batch, length, 64)
        torch.testing.assert_close(torch.from_numpy(session(x.numpy())[0]), model(x), atol=1e-5, rtol=1e-4)


def test_a_packed_file_that_onnx_runtime_cannot_run_is_refused_without_naming_a_file_that_is_gone(
    model: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(ig.errors.FormatError, match="cannot load the model: ") as caught:
        ig.export(model.bfloat16(), tmp_path / "packed.onnx", torch.zeros(4, 64).bfloat16(), packed=True)
    assert "standard.onnx" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
