"""Small ONNX models, and what must hold when any of them is packed and unpacked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from conformance.onnx_operators import evaluate
from isogrid.runtime import Session
from isogrid.runtime.packing import PackReport, pack, unpack

Arrays = Mapping[str, NDArray[Any]]
RANDOM = np.random.default_rng(7)


def sparse(*shape: int, sparsity: float = 0.9) -> NDArray[np.float32]:
    """Random weights with zeros."""
    array = RANDOM.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))
    array[RANDOM.random(shape) < sparsity] = 0
    return array


def dense(*shape: int) -> NDArray[np.float32]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    constants: Arrays | None = None,
    outputs: Sequence[str] = ("y",),
    *,
    types: Mapping[str, int] | None = None,
    opset: int = 17,
    more: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model from its nodes; `more` names further operator domains."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, (types or {}).get(n, TensorProto.FLOAT), s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in more)]
    model = helper.make_model(graph, ir_version=min(10, onnx.IR_VERSION), opset_imports=imports)
    inferred = onnx.shape_inference.infer_shapes(model)
    model.graph.ClearField("output")
    model.graph.output.extend(inferred.graph.output)
    return model


def check(model: onnx.ModelProto) -> None:
    if all(output.type.tensor_type.HasField("shape") for output in model.graph.output):
        onnx.checker.check_model(model)


def node(kind: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node from names with spaces between them; ``_`` is an input or output that is left out."""
    split = [[name if name != "_" else "" for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(kind, *split, domain=domain, **attributes)


def kinds(path: Path) -> Counter[str]:
    """How many nodes of each operator a file has."""
    return Counter(item.op_type for item in onnx.load(path).graph.node)


def run(path: Path, feeds: Arrays) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def same(found: Sequence[Any], expected: Sequence[Any], tolerance: float = 1e-4) -> None:
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        assert np.shape(left) == np.shape(right)
        assert np.asarray(left).dtype == np.asarray(right).dtype
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * max(float(np.abs(right).max()), 1e-6))


def pack_and_check(
    model: onnx.ModelProto | Path, folder: Path, feeds: Arrays, *, reference: bool = True, **options: Any
) -> PackReport:
    """Pack a model and see that it, what the reference makes of it, and its unpacked form give the same on `feeds`."""
    source, packed, plain = folder / "source.onnx", folder / "packed.onnx", folder / "plain.onnx"
    if isinstance(model, Path):
        source = model
    else:
        check(model)
        onnx.save(model, source)
    expected = run(source, feeds)
    report = pack(source, packed, **options)
    exact = options.get("values", "fp32") == "fp32"
    found = list(Session(packed, threads=1).run(feeds))
    if exact:
        same(found, expected)
    written = onnx.load(packed)
    check(written)
    if reference:
        same(evaluate(written, dict(feeds)), found)
    unpack(packed, plain)
    assert not any(item.domain == "isogrid" for item in onnx.load(plain).graph.node)
    check(onnx.load(plain))
    same(run(plain, feeds), found)
    again = folder / "again.onnx"
    pack(source, again, **options)
    assert again.read_bytes() == packed.read_bytes()
    return report
