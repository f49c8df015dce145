"""Puts operators of the domain `isogrid` in the place of layers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from isogrid.formats.numbers import Values, exact_values
from isogrid.formats.packed import pack_matrix
from isogrid.formats.sparse import SparseTensor
from isogrid.runtime.packing.layer import Layer, Matrix

DOMAIN = "isogrid"
VERSION = 1
# What tells the layers of a shared weight apart.
_NUMBER = re.compile(r"#\d+$")

OPERATORS = {
    "linear": "SparseLinear", "conv1d": "SparseConv", "conv2d": "SparseConv", "depthwise": "SparseConv",
    "embedding": "SparseGather", "lstm": "SparseLSTM", "gru": "SparseGRU",
}  # fmt: skip


def pack_weight(matrix: Matrix, values: Values, name: str) -> tuple[bytes, Values]:
    """The packed form of a matrix, and its number format.

    With ``"fp32"`` every weight is kept exactly, in the fewest bytes: a matrix that is on an int8 grid stays on it.
    """
    kinds: Iterable[Values] = exact_values(matrix) if values == "fp32" else (values,)
    found = [(pack_matrix(SparseTensor.from_dense(matrix, kind, name=name)), kind) for kind in kinds]
    return min(found, key=lambda packed: len(packed[0]))


class Replacer:
    """Replaces layers of one model; equal packed weights are stored once."""

    def __init__(self, model: ir.Model, values: Values) -> None:
        self._graph = model.graph
        self._values = values
        # Before this version every initializer had to be an input as well.
        model.ir_version = max(model.ir_version, 4)
        self._stored: dict[str, ir.Value] = {}
        self._successors: dict[ir.Value, ir.Value] = {}
        self._names = {value.name for node in model.graph.all_nodes() for value in node.outputs}
        self._names |= set(model.graph.initializers) | {value.name for value in model.graph.inputs}
        model.graph.opset_imports[DOMAIN] = VERSION

    def replace(self, layer: Layer) -> tuple[int, Values]:
        """Put an operator in the place of `layer`; give the bytes of its weights and their number format."""
        packed, bytes_, values = [], 0, self._values
        for number, matrix in enumerate(layer.matrices()):
            data, values = pack_weight(matrix, self._values, layer.name)
            suffix = f".{number}" if len(layer.weights) > 1 else ""
            name = _NUMBER.sub("", layer.name)
            packed.append(self._initializer(f"{name}{suffix}.packed", np.frombuffer(data, np.uint8)))
            bytes_ += len(data)
        inputs = self._inputs(layer, packed)
        while inputs and inputs[-1] is None:
            inputs.pop()
        last = layer.nodes[-1]
        outputs = list(last.outputs)
        if layer.kind in ("lstm", "gru"):
            outputs = self._all_outputs(layer, outputs)
        results = [self._fresh(value) for value in outputs]
        made = results if layer.layout is None else [self._unshaped(layer, layer.layout)]
        node = ir.Node(
            DOMAIN, OPERATORS[layer.kind], inputs, [_attribute(*item) for item in _attributes(layer).items()],
            outputs=made, name=layer.node.name, version=VERSION,
        )  # fmt: skip
        self._graph.insert_before(last, node)
        if layer.layout is not None:
            rest = [self._now(value) for value in layer.layout.inputs[1:]]
            layout = ir.Node(
                "", layer.layout.op_type, [*made, *rest], layer.layout.attributes.values(), outputs=results,
                name=layer.layout.name,
            )  # fmt: skip
            self._graph.insert_before(last, layout)
        for old, new in zip(outputs, results, strict=True):
            self._take_over(old, new)
        for gone in reversed(layer.nodes):
            self._graph.remove(gone, safe=True)
        return bytes_, values

    def _inputs(self, layer: Layer, packed: list[ir.Value]) -> list[ir.Value | None]:
        bias = None
        if layer.bias is not None and np.any(layer.bias):
            bias = self._initializer(f"{layer.name}.bias", layer.bias)
        if layer.kind == "embedding":
            return [packed[0], self._now(layer.x)]
        if layer.kind in ("lstm", "gru"):
            both = [*packed, *[None] * (4 - len(packed))]
            return [self._now(layer.x), *both, bias, *map(self._now, layer.states)]
        x = self._now(layer.x)
        if layer.turned:
            turn = ir.node("Transpose", [x], {"perm": [1, 0]})
            turn.outputs[0].name = self._name(f"{layer.name}.turned")
            turn.outputs[0].dtype = ir.DataType.FLOAT
            self._graph.insert_before(layer.nodes[-1], turn)
            x = turn.outputs[0]
        return [x, packed[0], bias, self._now(layer.residual)]

    def _initializer(self, name: str, array: NDArray[Any]) -> ir.Value:
        key = f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
        if key not in self._stored:
            name = self._name(name)
            value = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                const_value=ir.Tensor(array, name=name),
            )  # fmt: skip
            self._graph.register_initializer(value)
            self._stored[key] = value
        return self._stored[key]

    def _all_outputs(self, layer: Layer, outputs: list[ir.Value]) -> list[ir.Value]:
        """Y, Y_h and Y_c, those too that nothing uses: an operator with holes in its outputs is asking for trouble."""
        count = 3 if layer.kind == "lstm" else 2
        spare = [ir.Value(name="", type=ir.TensorType(ir.DataType.FLOAT)) for _ in range(count - len(outputs))]
        return [*outputs, *spare]

    def _unshaped(self, layer: Layer, layout: ir.Node) -> ir.Value:
        """What the operator gives where another node gives it its shape."""
        before = layout.inputs[0]
        assert before is not None
        return ir.Value(name=self._name(f"{layer.name}.unshaped"), shape=before.shape, type=before.type)

    def _fresh(self, old: ir.Value) -> ir.Value:
        return ir.Value(name=old.name or self._name("unused"), shape=old.shape, type=old.type)

    def _take_over(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` be used wherever `old` is."""
        if old.producer() is None:
            return
        self._successors[old] = new
        if old.is_graph_output():
            self._graph.outputs[[value is old for value in self._graph.outputs].index(True)] = new
        old.replace_all_uses_with(new)
        old.name = f"{old.name}.gone"

    def _now(self, value: ir.Value | None) -> ir.Value | None:
        """A value as it is called after what was replaced so far."""
        return value if value is None else self._successors.get(value, value)

    def _name(self, wanted: str) -> str:
        while wanted in self._names:
            wanted += "_"
        self._names.add(wanted)
        return wanted


def _attributes(layer: Layer) -> dict[str, Any]:
    attributes = dict(layer.attributes)
    if layer.epilogue.activation != "none":
        attributes["activation"] = layer.epilogue.activation
        if layer.epilogue.low or layer.epilogue.high:
            attributes |= {"low": float(layer.epilogue.low), "high": float(layer.epilogue.high)}
    return attributes


def _attribute(name: str, value: Any) -> ir.Attr:
    match value:
        case str():
            return ir.AttrString(name, value)
        case float():
            return ir.AttrFloat32(name, value)
        case list():
            return ir.AttrInt64s(name, [int(number) for number in value])
        case _:
            return ir.AttrInt64(name, int(value))
