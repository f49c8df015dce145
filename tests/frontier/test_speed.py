"""No clock decides here: which files take part, and what is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import isogrid as ig
from isogrid.frontier import speed
from isogrid.frontier.speed import measure_speed, write_packed
from isogrid.runtime.session import Session


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS", 0.0)


@torch.no_grad()
def model(width: int, sparsity: float) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 4)).eval()
    for layer in (made[0], made[2]):
        layer.weight.mul_(torch.rand_like(layer.weight) >= sparsity)
    return made


def test_dense_sparse_and_packed_take_turns_with_one_sample_and_with_many(tmp_path: Path) -> None:
    example = torch.randn(3, 32)
    ig.export(model(512, 0.95), tmp_path / "model.onnx", example)
    size = write_packed(tmp_path / "model.onnx", tmp_path / "packed.onnx", "fp32", [example.numpy()])
    assert size == (tmp_path / "packed.onnx").stat().st_size
    files = {"sparse": tmp_path / "model.onnx", "packed": tmp_path / "packed.onnx"}
    found = measure_speed(lambda path: ig.export(model(512, 0.0), path, example), files, [example.numpy()])
    assert found is not None
    assert [(row.model, row.batch) for row in found.rows] == [
        (name, batch) for batch in (1, 64) for name in ("dense", "sparse", "packed")
    ]
    assert all(row.times == 1.0 for row in found.rows if row.model == "dense")


def test_a_model_that_gains_nothing_has_no_packed_file(tmp_path: Path) -> None:
    example = torch.randn(3, 32)
    ig.export(model(512, 0.0), tmp_path / "model.onnx", example)
    assert write_packed(tmp_path / "model.onnx", tmp_path / "packed.onnx", "fp32", [example.numpy()]) is None
    assert not (tmp_path / "packed.onnx").exists()


def test_a_model_of_one_fixed_batch_is_not_timed() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, 16) * 2

    example = torch.randn(2, 16)
    assert measure_speed(lambda path: ig.export(Fixed(), path, example), {}, [example.numpy()]) is None


def test_the_batch_is_set_where_the_file_leaves_it_free(tmp_path: Path) -> None:
    example = torch.randn(3, 32)
    ig.export(model(8, 0.0), tmp_path / "free.onnx", example)
    ig.export(model(8, 0.0), tmp_path / "fixed.onnx", example, dynamic_batch=False)
    shapes = {}
    for name in ("free", "fixed"):
        session = Session(tmp_path / f"{name}.onnx")
        shapes[name] = [list(session.shapes_of([example], batch=batch).values()) for batch in (None, 64)]
        assert session.shapes_of([example, example]) == {}
    assert shapes == {"free": [[(3, 32)], [(64, 32)]], "fixed": [[(3, 32)], [(3, 32)]]}
