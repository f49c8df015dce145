"""`isogrid run` and `isogrid benchmark`: what they print, write and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isogrid.runtime import Session, pack
from runtime.small_models import mlp

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return mlp(tmp_path / "model.onnx", 0.9)


def test_run_shows_what_comes_out_and_writes_it(call: Call, model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    pack(model, tmp_path / "packed.onnx", batch=32)
    (wanted,) = Session(model)(x)
    for file in (model, tmp_path / "packed.onnx"):
        code, out, err = call(
            "run", file, "--inputs", tmp_path / "x.npz", "--out", tmp_path / "y.npz", "--threads", "1"
        )
        assert (code, err) == (0, "")
        assert out.startswith("y 3x10 float32: ")
        np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y"], wanted, atol=1e-4 * np.abs(wanted).max())


def test_run_without_inputs_takes_random_ones(call: Call, model: Path) -> None:
    code, out, _ = call("run", model, "--batch", "5")
    assert code == 0
    assert out.startswith("y 5x10 float32: ")
    assert call("run", model, "--batch", "5")[1] == out


def test_benchmark_prints_a_table_or_json_and_draws(call: Call, model: Path, tmp_path: Path) -> None:
    options = ("--no-rivals", "--seconds", "0.01", "--batch", "8", "--threads", "1", "--at", "0.5,0.95")
    code, out, err = call("benchmark", model, *options, "--plot", tmp_path / "plot.png")
    assert code == 0
    assert "model.onnx: 8 samples a call, 1 thread" in out
    assert "~95.0 %" in out
    assert "random masks of 50 %" in err
    assert max(map(len, out.splitlines())) <= 100
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = call("benchmark", model, *options, "--json")
    found = json.loads(out)
    assert [row["sparsity"] for row in found["rows"] if row["random_mask"]][-1] == 0.95


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "missing.onnx"), "is not a file"),
        (("run", "model.onnx", "--inputs", "missing.npz"), "missing.npz"),
        (("run", "model.onnx", "--shape", "x=0x3"), "--shape got 'x=0x3'"),
        (("benchmark", "missing.onnx"), "is not a file"),
        (("benchmark", "model.onnx", "--at", "a"), "--at got 'a'"),
        (("benchmark", "model.onnx", "--at", "1.5"), "accepted are numbers from 0"),
        (("benchmark", "model.onnx", "--seconds", "0"), "accepted are numbers above 0"),
        (("benchmark", "model.onnx", "--values", "int3"), "int3"),
    ],
)
def test_what_is_not_accepted_is_one_sentence(
    call: Call, model: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(model.parent)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    error = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(error) == 1
    assert says in error[0]


def test_a_plot_that_cannot_be_drawn(call: Call, model: Path, tmp_path: Path) -> None:
    code, _, err = call(
        "benchmark", model, "--no-rivals", "--seconds", "0.01", "--threads", "1", "--plot", tmp_path / "plot.xyz"
    )
    assert code == 1
    assert "cannot be written" in err
