"""`unpack`: the standard ONNX model that a packed one stands for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from isogrid.errors import FormatError
from isogrid.formats.numbers import Values, parse_values
from isogrid.formats.onnx_weights import shrink_weights
from isogrid.formats.packed import unpack_matrix
from isogrid.runtime.packing.files import (
    LARGEST_FILE,
    Draft,
    make_dense,
    opset_of,
    read_model,
    to_graph,
    to_proto,
    weight_bytes,
)
from isogrid.runtime.packing.recurrent import ONNX_GATES, reordered
from isogrid.runtime.packing.replacing import DOMAIN
from isogrid.runtime.packing.tidying import remove_unused

_NOTES = "isogrid.packed."


def unpack(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> int:
    """Write the standard model that a packed one stands for, and give its bytes.

    It computes the same with ONNX's own operators: batch norms stay folded.  Weights are stored as `isogrid.export`
    does it, each in its smallest form.

    Args:
        source: a file that `pack` wrote, or any other ``.onnx`` file.
        target: the file to write; weights above 2 GB go to a second one, ``TARGET.data``.

    Raises:
        UsageError: no such file.
        FormatError: it is damaged.
        RunError: the target cannot be written.
    """
    found = read_model(source)
    proto = unpacked(found.proto, found.path.parent)
    if weight_bytes(proto) <= LARGEST_FILE:
        shrink_weights(proto, _values(found.proto), {})
    with Draft(proto, Path(target), found.path.parent) as draft:
        draft.publish()
        return draft.bytes


def unpacked(proto: onnx.ModelProto, base: Path = Path()) -> onnx.ModelProto:
    """The standard model of a packed one; its weights are dense.

    Raises:
        FormatError: a packed weight is damaged, or an operator is not known.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    notes = [entry for entry in copy.metadata_props if not entry.key.startswith(_NOTES)]
    del copy.metadata_props[:]
    copy.metadata_props.extend(notes)
    make_dense(copy.graph)
    model = to_graph(copy)
    ir.external_data.set_base_dir(model.graph, base)
    writer = _Writer(model, opset_of(proto))
    for node in list(model.graph):
        if node.domain == DOMAIN:
            writer.replace(node)
    remove_unused(model)
    model.opset_imports.pop(DOMAIN, None)
    return to_proto(model)


def _values(proto: onnx.ModelProto) -> Values:
    notes = {entry.key: entry.value for entry in proto.metadata_props}
    found = notes.get(f"{_NOTES}values", "fp32")
    return parse_values(found) if found in ("fp16", "int8") else "fp32"


class _Writer:
    """Writes standard nodes in the place of ours."""

    def __init__(self, model: ir.Model, opset: int) -> None:
        self._graph = model.graph
        self._opset = opset
        self._names = {value.name for node in model.graph.all_nodes() for value in node.outputs}
        self._names |= set(model.graph.initializers) | {value.name for value in model.graph.inputs}
        self._made: dict[tuple[str, str], ir.Value] = {}

    def replace(self, node: ir.Node) -> None:
        self._node = node
        self._before = node
        writers: dict[str, Callable[[], list[ir.Value]]] = {
            "SparseLinear": self._linear,
            "SparseConv": self._convolution,
            "SparseGather": self._lookup,
            "SparseLSTM": lambda: self._recurrent("LSTM"),
            "SparseGRU": lambda: self._recurrent("GRU"),
        }
        if node.op_type not in writers:
            raise FormatError(f"The model has the operator {DOMAIN}.{node.op_type}, which is not known here.")
        results = writers[node.op_type]()
        for old, new in zip(node.outputs, results, strict=False):
            name, new.shape, new.type = old.name, old.shape, old.type
            if old.is_graph_output():
                self._graph.outputs[[value is old for value in self._graph.outputs].index(True)] = new
            old.replace_all_uses_with(new)
            old.name = self._name(f"{name}.packed")
            new.name = name
        self._graph.remove(node, safe=True)

    def _linear(self) -> list[ir.Value]:
        x, packed, bias, residual = self._inputs(4)
        weight = self._weight(packed, "linear", lambda matrix: matrix.T)
        return [self._epilogue(self._add_node("MatMul", [x, weight]), bias, residual)]

    def _convolution(self) -> list[ir.Value]:
        x, packed, bias, residual = self._inputs(4)
        kernel = self._integers("kernel_shape")
        group = self._integer("group", 1)
        weight = self._weight(packed, f"conv{kernel}", lambda matrix: matrix.reshape(matrix.shape[0], -1, *kernel))
        names = ("strides", "pads", "dilations")
        attributes = {name: self._integers(name) for name in names if name in self._node.attributes}
        inputs = [x, weight] if bias is None else [x, weight, bias]
        product = self._add_node("Conv", inputs, {"kernel_shape": kernel, "group": group, **attributes})
        return [self._epilogue(product, None, residual)]

    def _lookup(self) -> list[ir.Value]:
        packed, indices = self._inputs(2)
        table = self._weight(packed, "table", lambda matrix: matrix)
        return [self._add_node("Gather", [table, indices], {"axis": 0})]

    def _recurrent(self, operator: str) -> list[ir.Value]:
        x, w, r, w_back, r_back, bias, *states = self._inputs(8 if operator == "LSTM" else 7)
        gates = ONNX_GATES[operator]

        def stacked(values: list[ir.Value | None], name: str) -> ir.Value:
            matrices = [reordered(self._matrix(value), gates) for value in values if value is not None]
            return self._constant(f"{values[0].name}.{name}" if values[0] else name, np.stack(matrices))

        inputs = [x, stacked([w, w_back], "w"), stacked([r, r_back], "r")]
        if bias is not None:
            halves = np.split(self._array(bias), 2, axis=1)
            turned = np.concatenate([reordered(half, gates, 1) for half in halves], axis=1)
            inputs.append(self._constant(f"{bias.name}.b", turned))
        else:
            inputs.append(None)
        inputs += [None, *states]
        while inputs[-1] is None:
            inputs.pop()
        attributes: dict[str, Any] = {
            "hidden_size": self._integer("hidden_size", 0),
            "direction": self._node.attributes["direction"].as_string(),
        }
        if operator == "GRU":
            attributes["linear_before_reset"] = 1
        return self._add_nodes(operator, inputs, attributes, len(self._node.outputs))

    def _epilogue(self, product: ir.Value, bias: ir.Value | None, residual: ir.Value | None) -> ir.Value:
        for addend in (bias, residual):
            if addend is not None:
                product = self._add_node("Add", [product, addend])
        attribute = self._node.attributes.get("activation")
        activation = "none" if attribute is None else attribute.as_string()
        low, high = self._number("low"), self._number("high")
        return self._activation(activation, product, low, high)

    def _activation(self, name: str, x: ir.Value, low: float, high: float) -> ir.Value:
        add = self._add_node
        match name:
            case "none":
                return x
            case "relu" | "sigmoid" | "tanh":
                return add(name.capitalize(), [x])
            case "clip":
                return add("Clip", [x, self._scalar(low), self._scalar(high)])
            case "leaky_relu":
                return add("LeakyRelu", [x], {"alpha": low})
            case "silu":
                return add("Mul", [x, add("Sigmoid", [x])])
            case "hard_sigmoid":
                return add("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5})
            case "hard_swish":
                if self._opset >= 14:
                    return add("HardSwish", [x])
                return add("Mul", [x, add("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5})])
            case "gelu":
                if self._opset >= 20:
                    return add("Gelu", [x])
                bell = add("Erf", [add("Div", [x, self._scalar(math.sqrt(2))])])
                return add("Mul", [add("Mul", [x, add("Add", [bell, self._scalar(1)])]), self._scalar(0.5)])
            case "gelu_tanh":
                if self._opset >= 20:
                    return add("Gelu", [x], {"approximate": "tanh"})
                cube = add("Mul", [add("Mul", [x, add("Mul", [x, x])]), self._scalar(0.044715)])
                bell = add("Tanh", [add("Mul", [add("Add", [x, cube]), self._scalar(math.sqrt(2 / math.pi))])])
                return add("Mul", [add("Mul", [x, add("Add", [bell, self._scalar(1)])]), self._scalar(0.5)])
            case "sparse_relu":
                return add("Where", [add("Greater", [x, self._scalar(low)]), x, self._scalar(0)])
            case "sparse_tanh":
                beyond = add("Greater", [add("Abs", [x]), self._scalar(low)])
                return add("Where", [beyond, add("Tanh", [x]), self._scalar(0)])
            case _:
                raise FormatError(f"The model has the activation {name!r}, which is not known here.")

    def _inputs(self, count: int) -> list[Any]:
        inputs: list[Any] = [*self._node.inputs, *[None] * count]
        return inputs[:count]

    def _matrix(self, packed: ir.Value) -> NDArray[np.float32]:
        return unpack_matrix(self._array(packed).tobytes()).to_dense()

    def _array(self, value: ir.Value) -> NDArray[Any]:
        if value.const_value is None:
            raise FormatError(f"The weights {value.name} of a packed layer are no constant.")
        return np.asarray(value.const_value.numpy())

    def _weight(
        self, packed: ir.Value, use: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    ) -> ir.Value:
        """The dense weight, stored once for all that use it in the same way."""
        name = packed.name or "weight"
        if (name, use) not in self._made:
            uses = {node.op_type for node in packed.consumers()}
            if use == "linear" and "SparseGather" in uses:
                # One table for the lookup and the product, as it was.
                table = self._weight(packed, "table", lambda matrix: matrix)
                return self._add_node("Transpose", [table], {"perm": [1, 0]})
            array = np.ascontiguousarray(change(self._matrix(packed)))
            self._made[name, use] = self._constant(name.removesuffix(".packed"), array)
        return self._made[name, use]

    def _scalar(self, number: float) -> ir.Value:
        key = ("scalar", repr(number))
        if key not in self._made:
            self._made[key] = self._constant("number", np.array(number, np.float32))
        return self._made[key]

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        name = self._name(name)
        value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.Tensor(array, name=name),
        )  # fmt: skip
        self._graph.register_initializer(value)
        return value

    def _add_node(self, operator: str, inputs: list[Any], attributes: dict[str, Any] | None = None) -> ir.Value:
        return self._add_nodes(operator, inputs, attributes or {}, 1)[0]

    def _add_nodes(self, operator: str, inputs: list[Any], attributes: dict[str, Any], count: int) -> list[ir.Value]:
        node = ir.node(operator, inputs, attributes, num_outputs=count)
        for value in node.outputs:
            value.name = self._name(f"{self._node.name or 'unpacked'}.{operator}")
        node.name = self._name(f"{self._node.name or 'unpacked'}.{operator}.node")
        self._graph.insert_before(self._node, node)
        return list(node.outputs)

    def _name(self, wanted: str) -> str:
        while wanted in self._names:
            wanted += "_"
        self._names.add(wanted)
        return wanted

    def _integer(self, name: str, default: int) -> int:
        return int(self._node.attributes[name].as_int()) if name in self._node.attributes else default

    def _integers(self, name: str) -> list[int]:
        return list(self._node.attributes[name].as_ints())

    def _number(self, name: str) -> float:
        return float(self._node.attributes[name].as_float()) if name in self._node.attributes else 0.0
