from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from isogrid.errors import FormatError, UsageError
from isogrid.runtime.library import library_path
from isogrid.runtime.packing.packer import pack
from isogrid.runtime.session import Session
from runtime.small_models import mlp


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("session")
    source = mlp(folder / "sparse.onnx", 0.9)
    report = pack(source, folder / "packed.onnx", batch=32)
    assert report.packed
    return source, folder / "packed.onnx"


def test_a_packed_model_gives_what_the_original_gives(packed: tuple[Path, Path]) -> None:
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    (wanted,) = Session(packed[0], threads=1)(x)
    (found,) = Session(packed[1], threads=2)(x)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_it_says_what_goes_in_and_out(packed: tuple[Path, Path]) -> None:
    session = Session(packed[1])
    assert [str(port) for port in session.inputs] == ["x batchx64 float32"]
    assert session.outputs[0].name == "y"
    assert session.outputs[0].shape[1] == 10


def test_bytes_are_a_model_too(packed: tuple[Path, Path]) -> None:
    x = np.ones((1, 64), np.float32)
    assert np.array_equal(Session(packed[1].read_bytes())(x)[0], Session(packed[1])(x)[0])


def test_inputs_by_name_or_in_order_and_outputs_by_name(packed: tuple[Path, Path]) -> None:
    session = Session(packed[1])
    x = np.ones((2, 64), np.float32)
    assert np.array_equal(session.run({"x": x}, ["y"])[0], session.run([x])[0])


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        ([], None, "got 0 inputs; accepted are x batchx64 float32"),
        ({"z": np.ones((1, 64), np.float32)}, None, "got the inputs z; accepted are x"),
        ({}, None, "got the inputs none"),
        ([np.ones((1, 64), np.float32)], ["q"], "Unknown output 'q'"),
    ],
)
def test_other_inputs_are_refused(packed: tuple[Path, Path], inputs: object, outputs: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Session(packed[1]).run(inputs, outputs)  # type: ignore[arg-type]


def test_what_the_runtime_refuses_is_one_sentence(packed: tuple[Path, Path]) -> None:
    with pytest.raises(FormatError, match="cannot run the model") as caught:
        Session(packed[1])(np.ones((1, 65), np.float32))
    assert "\n" not in str(caught.value)


def test_files_that_are_none_and_threads_that_are_none(tmp_path: Path, packed: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        Session(tmp_path / "missing.onnx")
    (tmp_path / "damaged.onnx").write_bytes(packed[1].read_bytes()[:200])
    with pytest.raises(FormatError, match="cannot load"):
        Session(tmp_path / "damaged.onnx")
    with pytest.raises(UsageError, match="threads got 0"):
        Session(packed[1], threads=0)


def test_it_runs_without_torch_and_is_there_quickly(packed: tuple[Path, Path]) -> None:
    program = (
        "import sys, numpy as np, isogrid.runtime as runtime\n"
        f"y, = runtime.Session({str(packed[1])!r})(np.ones((1, 64), np.float32))\n"
        "assert y.shape == (1, 10)\n"
        "loaded = {'torch', 'onnx', 'onnx_ir', 'onnxscript', 'rich', 'typer'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_another_sessions_code_needs_one_line(packed: tuple[Path, Path]) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library_path()))
    session = onnxruntime.InferenceSession(str(packed[1]), options, providers=["CPUExecutionProvider"])
    x = np.ones((3, 64), np.float32)
    assert np.array_equal(session.run(None, {"x": x})[0], Session(packed[1])(x)[0])
