"""What follows a product and can be done before its result is stored: batch norm, bias, residual, activation."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from isogrid.runtime.packing.constants import Constants
from isogrid.runtime.packing.finding import same_shape
from isogrid.runtime.packing.layer import Layer
from isogrid.runtime.packing.layouts import row_axes
from isogrid.runtime.packing.recognition import follow

_KINDS = frozenset({"linear", "conv1d", "conv2d", "depthwise"})


def fuse(layer: Layer, constants: Constants, taken: set[ir.Node]) -> None:
    """Extend `layer` by the nodes after it; `taken` are those that other layers have, and gains what this one takes."""
    if layer.kind in _KINDS:
        _take_all(layer, constants, taken)
        if layer.epilogue.activation == "none":
            _take_behind_layout(layer, constants, taken)
    taken |= set(layer.nodes)


def _take_all(layer: Layer, constants: Constants, taken: set[ir.Node]) -> None:
    while _take_affine(layer, constants, taken):
        pass
    if layer.residual is None and layer.layout is None:
        _take_residual(layer, constants, taken)
    found = follow(layer.result, constants) if not layer.result.is_graph_output() else None
    if found is not None and not taken & set(found[0]):
        layer.nodes += found[0]
        layer.epilogue = found[1]
    elif found is None:
        _take_biased_gelu(layer, constants, taken)


def _take_behind_layout(layer: Layer, constants: Constants, taken: set[ir.Node]) -> None:
    """What is done to each number or row may as well be done before the result is given another shape."""
    node = _only_user(layer.result)
    axes = None if node is None or node in taken else row_axes(layer, node, constants)
    if node is None or axes is None:
        return
    count = len(layer.nodes)
    layer.nodes.append(node)
    layer.layout, layer.row_axes = node, axes
    _take_all(layer, constants, taken)
    if layer.result is node.outputs[0]:
        del layer.nodes[count:]
        layer.layout = None


def _only_user(value: ir.Value) -> ir.Node | None:
    """The one node that uses a value, once, in the same graph."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = value.consumers()[0]
    producer = value.producer()
    return node if producer is not None and node.graph is producer.graph else None


def _take_affine(layer: Layer, constants: Constants, taken: set[ir.Node]) -> bool:
    """A bias, a factor or a batch norm after the product."""
    if layer.residual is not None:
        return False
    node = _only_user(layer.result)
    if node is None or node in taken or node.domain != "":
        return False
    factor: NDArray[np.float32] | None = None
    addend: NDArray[np.float32] | None = None
    if node.op_type == "BatchNormalization":
        found = _normalisation(node, layer, constants)
        if found is None:
            return False
        factor, addend = found
    elif node.op_type in ("Add", "Sub", "Mul", "Div") and len(node.inputs) == 2:
        first = node.inputs[0] is layer.result
        if not first and node.op_type in ("Sub", "Div"):
            return False
        numbers = _per_row(node.inputs[1 if first else 0], layer, constants)
        if numbers is None:
            return False
        match node.op_type:
            case "Add":
                addend = numbers
            case "Sub":
                addend = -numbers
            case "Mul":
                factor = numbers
            case _:
                if not np.all(numbers):
                    return False
                factor = np.reciprocal(numbers)
        # Alone such a factor may be the start of an activation, x * 0.5 of GELU say; but those use x twice.
    else:
        return False
    if factor is not None:
        if not np.all(np.isfinite(factor)):
            return False
        layer.folded = factor if layer.folded is None else layer.folded * factor
        layer.bias = None if layer.bias is None else layer.bias * factor
    if addend is not None:
        layer.bias = addend if layer.bias is None else layer.bias + addend
    layer.nodes.append(node)
    return True


def _per_row(value: ir.Value | None, layer: Layer, constants: Constants) -> NDArray[np.float32] | None:
    """A constant as one number a row, if it is broadcast over all else."""
    array = constants.array(value)
    rows = layer.attributes["rows"]
    if array is None or array.dtype != np.float32:
        return None
    if layer.layout is not None:
        return _per_row_behind(layer, array)
    if array.size not in (1, rows):
        return None
    if array.ndim > 1 and (layer.result.shape is None or array.ndim > len(layer.result.shape)):
        return None
    if array.size > 1 or rows == 1:
        # The rows lie along the last axis of a linear layer's result, along the second of a convolution's.
        behind = 0 if layer.kind == "linear" else len(layer.shape) - 2
        sizes = (1,) * max(0, behind + 1 - array.ndim) + array.shape
        if array.size > 1 and sizes[len(sizes) - 1 - behind] != rows:
            return None
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (rows,)))


def _per_row_behind(layer: Layer, array: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The same where the rows lie along other axes now."""
    assert layer.result.shape is not None
    sizes = layer.result.shape.dims
    first, last = layer.row_axes
    found = (1,) * (len(sizes) - array.ndim) + array.shape
    if len(found) != len(sizes) or any(size != 1 for size in found[:first] + found[last:]):
        return None
    wanted = tuple(int(size) for size in sizes[first:last] if isinstance(size, int))
    if len(wanted) != last - first or any(
        size not in (1, most) for size, most in zip(found[first:last], wanted, strict=True)
    ):
        return None
    return np.ascontiguousarray(np.broadcast_to(array.reshape(found[first:last]), wanted)).reshape(-1)


def _normalisation(
    node: ir.Node, layer: Layer, constants: Constants
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Factor and addend of a batch norm in inference."""
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return None
    if "training_mode" in node.attributes and node.attributes["training_mode"].as_int():
        return None
    if layer.kind == "linear" and (layer.result.shape is None or len(layer.result.shape) != 2):
        return None
    found = [constants.array(value) for value in node.inputs[1:5]]
    rows = layer.attributes["rows"]
    if any(array is None or array.shape != (rows,) for array in found):
        return None
    scale, shift, mean, variance = (np.asarray(array, np.float64) for array in found)
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    factor = scale / np.sqrt(variance + epsilon)
    addend = shift - mean * factor
    if not (np.all(np.isfinite(factor)) and np.all(np.isfinite(addend))):
        return None
    return factor.astype(np.float32), addend.astype(np.float32)


def _take_residual(layer: Layer, constants: Constants, taken: set[ir.Node]) -> None:
    node = _only_user(layer.result)
    if node is None or node in taken or node.domain != "" or node.op_type != "Add":
        return
    other = node.inputs[1] if node.inputs[0] is layer.result else node.inputs[0]
    if other is None or constants.is_constant(other) or other is layer.result:
        return
    if other.dtype == ir.DataType.FLOAT and same_shape(other, layer.result):
        layer.residual = other
        layer.nodes.append(node)


def _take_biased_gelu(layer: Layer, constants: Constants, taken: set[ir.Node]) -> None:
    """ONNX Runtime's BiasGelu, and FastGelu with a bias."""
    node = _only_user(layer.result)
    if node is None or node in taken or node.domain != "com.microsoft" or layer.residual is not None:
        return
    name = {"BiasGelu": "gelu", "FastGelu": "gelu_tanh"}.get(node.op_type)
    if name is None or len(node.inputs) != 2 or node.inputs[0] is not layer.result:
        return
    numbers = _per_row(node.inputs[1], layer, constants)
    if numbers is not None:
        layer.bias = numbers if layer.bias is None else layer.bias + numbers
        layer.epilogue = type(layer.epilogue)(name)
        layer.nodes.append(node)
