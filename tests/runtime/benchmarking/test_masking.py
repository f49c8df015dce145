from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from isogrid.errors import UnsupportedError, UsageError
from isogrid.runtime.benchmarking.masking import mask_randomly
from runtime.small_models import mlp


def _weights(path: Path) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_exactly_that_share_of_each_target_is_zero_and_nothing_else_changes(tmp_path: Path) -> None:
    source = mlp(tmp_path / "dense.onnx")
    zeros = mask_randomly(source, tmp_path / "masked.onnx", 0.9)
    before, after = _weights(source), _weights(tmp_path / "masked.onnx")
    assert zeros == round(0.9 * 64 * 256) + round(0.9 * 256 * 10)
    for name in ("first", "second"):
        kept = after[name] != 0
        assert kept.sum() == after[name].size - round(0.9 * after[name].size)
        assert np.array_equal(after[name][kept], before[name][kept])
    assert np.array_equal(after["bias"], before["bias"])


def test_the_places_are_the_seeds(tmp_path: Path) -> None:
    source = mlp(tmp_path / "dense.onnx")
    files = [tmp_path / f"{n}.onnx" for n in range(3)]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        mask_randomly(source, file, 0.5, seed=seed)
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_sparsities_and_files_that_are_not_accepted(tmp_path: Path) -> None:
    source = mlp(tmp_path / "dense.onnx")
    for sparsity in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="accepted are numbers from 0"):
            mask_randomly(source, tmp_path / "x.onnx", sparsity)
    info = onnx.helper.make_tensor_value_info("x", 1, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [info], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "empty.onnx")
    with pytest.raises(UnsupportedError, match="no weights that could be masked"):
        mask_randomly(tmp_path / "empty.onnx", tmp_path / "x.onnx", 0.5)
    assert not (tmp_path / "x.onnx").exists()
