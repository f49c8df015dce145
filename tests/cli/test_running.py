"""`isogrid run` and `isogrid benchmark`: what they print, write and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from conformance.onnx_models import build, node
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


def test_run_describes_lists_and_maps_which_cannot_be_written(call: Call, tmp_path: Path) -> None:
    scores = [
        node("ZipMap", "x", "scores", domain="ai.onnx.ml", classlabels_strings=["cat", "dog"]),
        node("SplitToSequence", "x", "rows", axis=0),
    ]
    graph = helper.make_graph(
        scores, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [
            helper.make_value_info("scores", helper.make_sequence_type_proto(helper.make_map_type_proto(
                TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
            ))),
            helper.make_tensor_sequence_value_info("rows", TensorProto.FLOAT, None),
        ],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.array([[0.25, 0.5], [1, 2]], np.float32))
    arguments = ("run", tmp_path / "m.onnx", "--inputs", tmp_path / "x.npz")
    shown = "scores list of 2: {cat: 0.25, dog: 0.5}, {cat: 1, dog: 2}\nrows list of 2: 1x2 float32, 1x2 float32\n"
    assert call(*arguments) == (0, shown, "")
    code, _, err = call(*arguments, "--out", tmp_path / "y.npz")
    assert code == 2
    assert "scores is a list, which .npz has no place for" in err
    assert not (tmp_path / "y.npz").exists()


def test_run_writes_text_and_outputs_of_any_name(call: Call, tmp_path: Path) -> None:
    names = ["label", "file", "allow_pickle", "/a/b"]
    made = [node("Gather", "names x", "label"), *(node("Identity", "x", name) for name in names[1:])]
    constants = {"names": np.array([f"n{number}" for number in range(9)], object)}
    types = dict.fromkeys(["x", *names], TensorProto.INT64) | {"label": TensorProto.STRING}
    onnx.save(build(made, {"x": [2]}, constants, names, types=types), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.array([7, 1]))
    code, out, err = call("run", tmp_path / "m.onnx", "--inputs", tmp_path / "x.npz", "--out", tmp_path / "y.npz")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["label 2 text: n7, n1", "file 2 int64: 7, 1"]
    with np.load(tmp_path / "y.npz", allow_pickle=False) as found:
        assert found["label"].tolist() == ["n7", "n1"]
        assert all(found[name].tolist() == [7, 1] for name in names[1:])


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
    assert [row["sparsity"] for row in found["rows"] if row["random_mask"]][-1] == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "missing.onnx"), "is not a file"),
        (("run", "model.onnx", "--inputs", "missing.npz"), "missing.npz"),
        (("run", "model.onnx", "--shape", "x=0x3"), "--shape got 'x=0x3'"),
        (("benchmark", "missing.onnx"), "is not a file"),
        (("benchmark", "model.onnx", "--at", "a"), "--at got 'a'"),
        (("benchmark", "model.onnx", "--at", "1.5"), "accepted is a number from 0"),
        (("benchmark", "model.onnx", "--seconds", "0"), "accepted are numbers above 0"),
        (("benchmark", "model.onnx", "--seconds", "nan"), "accepted are numbers above 0"),
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


@pytest.mark.parametrize(
    ("plot", "code", "says"),
    [
        ("plot.xyz", 2, "accepted are .png, .svg, .pdf"),
        ("missing/plot.png", 1, "cannot be written"),
        ("folder.png", 1, "cannot be written"),
    ],
)
def test_a_plot_that_cannot_be_drawn_is_refused_before_the_race(
    call: Call, model: Path, tmp_path: Path, plot: str, code: int, says: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    found, out, err = call("benchmark", model, "--no-rivals", "--seconds", "0.01", "--plot", tmp_path / plot)
    assert (found, out) == (code, "")
    assert err.startswith("Error: ")
    assert says in err
