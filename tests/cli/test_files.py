"""`isogrid pack` and `isogrid unpack`: what they print, write and refuse.  Nothing here needs PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from conformance.onnx_models import build, dense, kinds, node, run, same, sparse
from isogrid.runtime import Session

Call = Callable[..., tuple[int, str, str]]


def error_of(result: tuple[int, str, str], code: int) -> str:
    assert result[0] == code, result
    assert result[1] == ""
    (line,) = result[2].splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nodes = [node("MatMul", "x fc.weight", "p"), node("Relu", "p", "q"), node("MatMul", "q out.weight", "y")]
    weights = {"fc.weight": sparse(256, 384), "out.weight": sparse(384, 64)}
    onnx.save(build(nodes, {"x": ["batch", 256]}, weights), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def test_pack_writes_the_file_and_a_table(call: Call, model: Path, tmp_path: Path) -> None:
    code, out, err = call("pack", model, tmp_path / "out.onnx", "--batch", "8")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    (first,) = [line for line in lines if "fc.weight" in line]
    assert first.split()[1:3] == ["linear", "256x384"]
    assert "sparse, with relu" in first
    assert "x" in first
    assert "2 of 2 layers packed" in out
    assert all(len(line) <= 100 for line in lines)
    x = dense(3, 256)
    same(Session(tmp_path / "out.onnx").run({"x": x}), run(model, {"x": x}))


def test_pack_as_json_is_json(call: Call, model: Path, tmp_path: Path) -> None:
    code, out, _ = call("pack", model, tmp_path / "out.onnx", "--batch", "8", "--values", "int8", "--json")
    found: dict[str, Any] = json.loads(out)
    assert code == 0
    assert (found["packed"], found["values"]) == (2, "int8")
    assert found["bytes_after"] == (tmp_path / "out.onnx").stat().st_size
    assert found["nodes"][0]["name"] == "fc.weight"
    assert found["nodes"][0]["shape"] == [256, 384]
    assert found["nodes"][0]["gain"] > 1


def test_choices_are_saved_and_replayed(call: Call, model: Path, tmp_path: Path) -> None:
    choices = tmp_path / "choices.json"
    assert call("pack", model, tmp_path / "a.onnx", "--batch", "8", "--save-choices", choices)[0] == 0
    told = json.loads(choices.read_text())
    assert told == {"fc.weight": "sparse", "out.weight": "sparse"}
    choices.write_text(json.dumps(told | {"out.weight": "dense"}))
    assert call("pack", model, tmp_path / "b.onnx", "--choices", choices)[0] == 0
    assert kinds(tmp_path / "b.onnx") == {"SparseLinear": 1, "MatMul": 1}


def test_a_model_that_has_nothing_to_gain_is_said_to(call: Call, tmp_path: Path) -> None:
    onnx.save(build([node("MatMul", "x w", "y")], {"x": [8, 64]}, {"w": dense(64, 64)}), tmp_path / "in.onnx")
    code, out, _ = call("pack", tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert code == 0
    assert "No layer has enough zeros to gain from" in out
    assert "dense, no zeros" in out


def test_unpack_gives_a_standard_model_back(call: Call, model: Path, tmp_path: Path) -> None:
    call("pack", model, tmp_path / "out.onnx", "--batch", "8")
    code, out, err = call("unpack", tmp_path / "out.onnx", tmp_path / "back.onnx")
    assert (code, err) == (0, "")
    assert "back.onnx: " in out
    x = dense(3, 256)
    same(run(tmp_path / "back.onnx", {"x": x}), run(model, {"x": x}))


def test_shapes_and_inputs(call: Call, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=dense(5, 256))
    assert call("pack", model, tmp_path / "a.onnx", "--shape", "x=16x256", "--values", "fp16")[0] == 0
    assert call("pack", model, tmp_path / "b.onnx", "--inputs", tmp_path / "in.npz")[0] == 0


def test_inspect_shows_where_a_packed_file_comes_from(call: Call, model: Path, tmp_path: Path) -> None:
    call("pack", model, tmp_path / "out.onnx", "--batch", "8")
    _, out, _ = call("inspect", tmp_path / "out.onnx")
    assert "isogrid.packed.source: " in out
    assert "isogrid.packed.command: isogrid pack --values fp32 --batch 8" in out
    found = json.loads(call("inspect", tmp_path / "out.onnx", "--json")[1])
    assert found["provenance"]["isogrid.packed.values"] == "fp32"
    assert [layer["name"] for layer in found["layers"]] == ["fc.weight", "out.weight"]
    assert 0.88 < found["sparsity"] < 0.92
    assert "provenance" not in json.loads(call("inspect", model, "--json")[1])


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.onnx", "out.onnx"], 2, "is not a file"),
        (["IN", "out.onnx", "--values", "fp8"], 2, "Unknown number format"),
        (["IN", "out.onnx", "--shape", "x"], 2, "accepted is NAME="),
        (["IN", "out.onnx", "--shape", "x=0x3"], 2, "accepted is NAME="),
        (["IN", "out.onnx", "--shape", "z=1x3"], 2, "Unknown input 'z'"),
        (["IN", "out.onnx", "--choices", "none.json"], 2, "cannot be read"),
        (["IN", "out.onnx", "--inputs", "none.npz"], 2, "cannot be read as .npz"),
        (["BAD", "out.onnx"], 1, "cannot be read as ONNX"),
        (["IN", "none/out.onnx"], 1, "cannot be written"),
    ],
)
def test_what_is_refused_is_one_sentence(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 50)
    given = [{"IN": "in.onnx", "BAD": "bad.onnx"}.get(argument, argument) for argument in arguments]
    assert said in error_of(call("pack", *given), code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.onnx", "in.onnx"]


def test_unpack_refuses_too(call: Call, model: Path, tmp_path: Path) -> None:
    assert "is not a file" in error_of(call("unpack", tmp_path / "none.onnx", tmp_path / "out.onnx"), 2)
    assert "cannot be written" in error_of(call("unpack", model, tmp_path / "none" / "out.onnx"), 1)
