"""The base package as a user gets it: the wheel, and only what it requires."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import isogrid as ig
from isogrid.errors import MissingDependencyError
from isogrid.formats.safetensors import load_tensors, save_tensors
from isogrid.formats.sparse import SparseTensor

OPTIONAL = ("torch", "onnx", "onnxruntime", "onnxscript", "matplotlib", "jinja2", "sklearn", "tensorboard")
BASE_MODULES = (
    "allocation",
    "cli",
    "errors",
    "floor",
    "formats.safetensors",
    "formats.sparse",
    "inspection",
    "metrics",
    "names",
    "patterns",
    "schedules",
    "scores",
    "versions",
)
NEEDS_TORCH = ("Sparsifier", "prune", "Gradual", "OneShot", "L1", "SparseReLU", "top_k", "quantize", "save", "load")


@pytest.fixture
def sparse_file(tmp_path: Path) -> Path:
    """A file with two tensors: one of 100 x 50 weights, 90 % sparse, and a bias."""
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((100, 50)) < 0.1, rng.normal(size=(100, 50)), 0.0)
    tensors = {"fc.weight": SparseTensor.from_dense(weight, "fp16"), "fc.bias": np.ones(100, np.float32)}
    save_tensors(tmp_path / "model.safetensors", tensors)
    return tmp_path / "model.safetensors"


def isogrid(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = Path(sysconfig.get_path("scripts")) / "isogrid"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_this_is_the_installed_wheel_alone() -> None:
    assert Path(ig.__file__).is_relative_to(sysconfig.get_path("purelib"))
    assert [name for name in OPTIONAL if importlib.util.find_spec(name)] == []


def test_the_wheel_holds_what_is_not_python() -> None:
    files = {str(file) for file in importlib.metadata.files("isogrid") or []}
    assert {"isogrid/py.typed", "isogrid/_native.pyi"} <= files
    assert {"isogrid/report/template.html.j2", "isogrid/report/style.css"} <= files
    assert any(re.fullmatch(r"isogrid/_native\..*\.so", file) for file in files)
    assert [file for file in files if file.startswith(("tests", "native", "scripts"))] == []


def test_the_wheel_says_what_it_needs() -> None:
    required = importlib.metadata.requires("isogrid") or []
    base = {re.split(r"[^\w-]", requirement)[0] for requirement in required if "extra ==" not in requirement}
    assert base == {"numpy", "rich", "safetensors", "typer"}


@pytest.mark.parametrize("module", BASE_MODULES)
def test_a_base_module_imports(module: str) -> None:
    importlib.import_module(f"isogrid.{module}")


@pytest.mark.parametrize("name", NEEDS_TORCH)
def test_what_needs_torch_says_how_to_get_it(name: str) -> None:
    with pytest.raises(MissingDependencyError) as raised:
        getattr(ig, name)
    assert str(raised.value) == (
        f"isogrid.{name} needs torch, which is not installed; install it with: pip install 'isogrid[torch]'."
    )


def test_what_needs_no_torch_loads() -> None:
    assert ig.Metric.__name__ == "Metric"
    assert ig.Outcomes.__name__ == "Outcomes"
    assert ig.inspect.__name__ == "inspect"


def test_sparse_files_are_read_and_written(sparse_file: Path) -> None:
    tensors, _ = load_tensors(sparse_file)
    weight = tensors["fc.weight"]
    assert isinstance(weight, SparseTensor)
    assert weight.shape == (100, 50)
    again = SparseTensor.from_dense(weight.to_dense(), "fp16")
    assert np.array_equal(again.positions, weight.positions)
    assert np.array_equal(again.values, weight.values)


def test_sparse_files_are_inspected(sparse_file: Path) -> None:
    found = ig.inspect(sparse_file)
    weight, _ = load_tensors(sparse_file)
    assert found.parameters == 5100
    assert found.nonzeros == weight["fc.weight"].nonzeros + 100
    assert found.bytes == sparse_file.stat().st_size


def test_ordinary_safetensors_files_are_inspected(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors.numpy.save_file({"fc.weight": np.eye(10, dtype=np.float32)}, path)
    assert ig.inspect(path).nonzeros == 10


def test_the_command_line_inspects(sparse_file: Path) -> None:
    done = isogrid("inspect", sparse_file, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 5100


def test_the_command_line_says_what_a_verb_needs(tmp_path: Path) -> None:
    done = isogrid("optimize", "digits", "--max-drop", "1pt", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "torch" in done.stderr
    assert "pip install 'isogrid[" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--help",), ("info",), ("inspect", "--help")])
def test_the_command_line_starts(arguments: tuple[str, ...]) -> None:
    done = isogrid(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_import_is_quick() -> None:
    # The goal is 0.3 s and `scripts/time-import` measures it (about 0.02 s); this catches only a heavy import.
    program = "import time; start = time.perf_counter(); import isogrid; print(time.perf_counter() - start)"
    start = time.perf_counter()
    seconds = [float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(5)]
    assert statistics.median(seconds) < 3.0, f"{seconds} in {time.perf_counter() - start} s"
