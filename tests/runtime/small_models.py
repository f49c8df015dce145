"""Small ONNX files to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def mlp(path: Path, sparsity: float = 0.0, width: int = 256, seed: int = 0) -> Path:
    """Two layers and a ReLU, batch free: x [batch, 64] to y [batch, 10]."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((64, width)).astype(np.float32)
    second = rng.standard_normal((width, 10)).astype(np.float32)
    for weight in (first, second):
        places = rng.permutation(weight.size)[: round(sparsity * weight.size)]
        weight.reshape(-1)[places] = 0
    bias = rng.standard_normal(width).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("Add", ["a", "bias"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "second"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])
    weights = [numpy_helper.from_array(a, n) for a, n in ((first, "first"), (bias, "bias"), (second, "second"))]
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
