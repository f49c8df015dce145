"""What a value of a graph is, where that is known before the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

# What exporters leave between a stored weight and the layer that uses it.
_FOLDED = frozenset(
    {
        "Add", "Cast", "CastLike", "Concat", "DequantizeLinear", "Div", "Expand", "Flatten", "Gather", "Identity",
        "Mul", "Neg", "Pad", "Reciprocal", "Reshape", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip
_COMPLETE = 21
"""An operator set of which the reference has all of these; from 13 on they mean the same."""
_REMEMBERED = 1 << 16
"""Arrays up to this many bytes are kept."""


class Constants:
    """Evaluates constant parts of a graph when asked, and leaves the graph as it is.

    What is stored compactly (float16, int8 codes, a transposed table) stays so until it is known to be packed.

    Args:
        model: the graph.
        defaults: take the defaults that inputs have for constants, although a caller may pass something else.
    """

    def __init__(self, model: ir.Model, *, defaults: bool = False) -> None:
        self._defaults = defaults
        self.opset = model.opset_imports.get("", 13)
        self._known: dict[ir.Value, bool] = {}
        self._small: dict[ir.Value, NDArray[Any]] = {}

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether `array` knows the value."""
        if value is None:
            return False
        if value not in self._known:
            self._known[value] = self._decide(value)
        return self._known[value]

    def array(self, value: ir.Value | None) -> NDArray[Any] | None:
        """The value as an array, or None where it is not constant."""
        if value is None or not self.is_constant(value):
            return None
        if value in self._small:
            return self._small[value]
        tensor = ir.convenience.get_const_tensor(value)
        try:
            array = self._evaluate(value) if tensor is None else np.asarray(tensor.numpy())
        except Exception:  # whatever an operator makes of odd arguments: then it is for the runtime to say so
            self._known[value] = False
            return None
        if array.nbytes <= _REMEMBERED:
            self._small[value] = array
        return array

    def scalar(self, value: ir.Value | None) -> float | None:
        """The value as a number, where it is a single one."""
        if value is not None and value.shape is not None and any(size != 1 for size in value.shape.dims):
            return None
        array = self.array(value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def root(self, value: ir.Value) -> ir.Value:
        """The stored tensor that a constant value comes from; the largest where there are several."""
        node = value.producer()
        if node is None or node.op_type == "Constant":
            return value
        roots = [self.root(given) for given in node.inputs if given is not None]
        return max(roots, key=_size) if roots else value

    def stored_bytes(self, value: ir.Value) -> int:
        """What the value takes in the file."""
        return sum(_bytes(stored) for stored in self._stored(value))

    def _stored(self, value: ir.Value) -> set[ir.Value]:
        node = value.producer()
        if node is None or node.op_type == "Constant":
            return {value}
        found: set[ir.Value] = set()
        for given in node.inputs:
            if given is not None:
                found |= self._stored(given)
        return found

    def _decide(self, value: ir.Value) -> bool:
        if value.is_graph_input() and not self._defaults:
            return False
        node = value.producer()
        if node is None:
            return value.const_value is not None
        if node.op_type == "Constant" and node.domain == "":
            return ir.convenience.get_const_tensor(value) is not None
        if node.domain != "" or node.op_type not in _FOLDED or not node.inputs:
            return False
        return all(given is None or self.is_constant(given) for given in node.inputs)

    def _evaluate(self, value: ir.Value) -> NDArray[Any]:
        node = value.producer()
        assert node is not None
        arrays = [None if given is None else self.array(given) for given in node.inputs]
        if any(array is None and given is not None for array, given in zip(arrays, node.inputs, strict=True)):
            raise ValueError("an input is not constant")
        return evaluate_node(node, value, arrays, self.opset)


def evaluate_node(node: ir.Node, value: ir.Value, arrays: Sequence[NDArray[Any] | None], opset: int) -> NDArray[Any]:
    """The output `value` of a node whose inputs are `arrays`."""
    feeds = {f"x{index}": array for index, array in enumerate(arrays) if array is not None}
    proto = ir.serde.serialize_node(node)
    outputs = [f"y{number}" for number in range(len(node.outputs))]
    del proto.input[:], proto.output[:]
    proto.input.extend("" if array is None else f"x{index}" for index, array in enumerate(arrays))
    proto.output.extend(outputs)
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    wanted = outputs[list(node.outputs).index(value)]
    graph = onnx.helper.make_graph([proto], "constant", inputs, [onnx.ValueInfoProto(name=wanted)])
    (found,) = _evaluator(graph, opset).run([wanted], feeds)
    return np.asarray(found)


def _evaluator(graph: onnx.GraphProto, opset: int) -> ReferenceEvaluator:
    """Of the model's operator set, or of a newer one where the reference has none so old."""
    imports = [[onnx.helper.make_opsetid("", version)] for version in (opset, max(opset, _COMPLETE))]
    try:
        return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports[0]))
    except RuntimeError:
        return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports[1]))


def _size(value: ir.Value) -> int:
    tensor = ir.convenience.get_const_tensor(value)
    return 0 if tensor is None else int(tensor.size)


def _bytes(value: ir.Value) -> int:
    tensor = ir.convenience.get_const_tensor(value)
    return 0 if tensor is None else int(tensor.nbytes)
