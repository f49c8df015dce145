from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from isogrid.errors import UnsupportedError, UsageError
from isogrid.formats.numbers import Values
from isogrid.formats.onnx import export
from isogrid.inspection import inspect
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


@pytest.mark.parametrize("sparsity", [0.3, 0.8, 0.95, 0.99])
def test_zeros_that_are_there_already_count_and_surplus_ones_become_numbers(tmp_path: Path, sparsity: float) -> None:
    source = mlp(tmp_path / "sparse.onnx", 0.95)
    mask_randomly(source, tmp_path / "masked.onnx", sparsity)
    before, after = _weights(source), _weights(tmp_path / "masked.onnx")
    for name in ("first", "second"):
        zeros = before[name] == 0
        wanted = round(sparsity * zeros.size)
        assert (after[name] == 0).sum() == wanted
        if wanted >= zeros.sum():
            assert not after[name][zeros].any()
            continue
        assert np.array_equal(after[name][~zeros], before[name][~zeros])
        new = after[name][zeros & (after[name] != 0)]
        assert new.std() == pytest.approx(before[name][~zeros].std(), rel=0.2)


def test_a_target_of_zeros_alone_gets_numbers(tmp_path: Path) -> None:
    mask_randomly(mlp(tmp_path / "zeros.onnx", 1.0), tmp_path / "masked.onnx", 0.5)
    after = _weights(tmp_path / "masked.onnx")
    for name in ("first", "second"):
        assert (after[name] == 0).mean() == 0.5
        assert np.isfinite(after[name]).all()


@pytest.mark.parametrize("values", ["fp32", "fp16"])
def test_exported_weights_are_masked_in_the_form_that_they_are_stored_in(tmp_path: Path, values: Values) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Linear(128, 32))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(128, 64) > 0.95)
    export(model, tmp_path / "m.onnx", torch.zeros(2, 64), values=values)
    assert onnx.load(tmp_path / "m.onnx").graph.sparse_initializer
    mask_randomly(tmp_path / "m.onnx", tmp_path / "masked.onnx", 0.5)
    assert inspect(tmp_path / "masked.onnx").sparsity == 0.5


def test_the_places_are_the_seeds(tmp_path: Path) -> None:
    source = mlp(tmp_path / "dense.onnx")
    files = [tmp_path / f"{n}.onnx" for n in range(3)]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        mask_randomly(source, file, 0.5, seed=seed)
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_sparsities_and_files_that_are_not_accepted(tmp_path: Path) -> None:
    source = mlp(tmp_path / "dense.onnx")
    for sparsity in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="accepted is a number from 0"):
            mask_randomly(source, tmp_path / "x.onnx", sparsity)
    info = onnx.helper.make_tensor_value_info("x", 1, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [info], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "empty.onnx")
    with pytest.raises(UnsupportedError, match="no weights that could be masked"):
        mask_randomly(tmp_path / "empty.onnx", tmp_path / "x.onnx", 0.5)
    assert not (tmp_path / "x.onnx").exists()
