"""What every ready task promises: one command from its data to a packed model that answers as PyTorch's does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch

import isogrid as ig
from isogrid.explain import explain
from isogrid.quality import check
from isogrid.runtime import Session
from isogrid.tasks import Task


def check_chain(task: Task, inputs: tuple[torch.Tensor, ...], out: Path) -> ig.OptimizeResult:
    """Run the main job of `task` with a floor that its ladder's first rungs hold; compare all answers to `inputs`."""
    result = ig.optimize(task, max_drop="25pt", out=out)
    assert (out / "report.html").stat().st_size > 1000
    assert result.report.balance.sparsity >= min(task.recipe.ladder) - 0.01
    with torch.no_grad():
        expected = result.model(*inputs).numpy()
    assert len(set(expected.argmax(axis=1))) > 3  # a model that has learned something
    feeds = [tensor.numpy() for tensor in inputs]
    for name in ("model.onnx", "model.packed.onnx"):
        (found,) = Session(out / name, threads=1).run(feeds)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    kinds = {node.op_type for node in onnx.load(out / "model.packed.onnx").graph.node}
    assert any(kind.startswith("Sparse") for kind in kinds)
    check_looking(task, out)
    return result


def check_looking(task: Task, run: Path) -> None:
    """See that the data of `task` can be checked and its finished run be explained."""
    found = check(task, samples=200)
    assert list(found.samples) == ["train", "validation", "test"]
    assert next(one for one in found.findings if one.check == "finite").grade == "good"
    assert (task.class_names() is not None) == any(one.check == "labels" for one in found.findings)
    explained = explain(run, task=task, batches=2)
    assert explained.inputs
    assert all(abs(sum(row.importance) - 1) < 1e-6 and row.strongest for row in explained.inputs)
    assert explained.units
    assert all(0 < row.half <= row.units for row in explained.units)
    assert (task.class_names() is not None) == (explained.confidence is not None)
