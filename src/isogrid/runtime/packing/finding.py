"""Finds the layers of a graph whose weights are constants."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from isogrid.runtime.packing.constants import Constants
from isogrid.runtime.packing.layer import Layer, Left, Matrix
from isogrid.runtime.packing.recurrent import recurrent_layer

# Names that an exporter made up say less than the node's.
_MADE_UP = re.compile(r"(onnx::.*|val_\d+|_?\d+|.*__\d+|const_fold.*)")

_CONV_ATTRIBUTES = frozenset({"kernel_shape", "strides", "pads", "dilations", "group", "auto_pad"})


class _Refusal(Exception):  # noqa: N818 - it is caught here and becomes a reason
    """Why a layer stays as it is."""


def find_layers(model: ir.Model, constants: Constants) -> list[Layer | Left]:
    """All layers with stored weights, in the order in which they are computed, each under a name of its own."""
    defaults = Constants(model, defaults=True)
    found: list[Layer | Left] = []
    for node in model.graph.all_nodes():
        finder = _FINDERS.get(node.op_type) if node.domain == "" else None
        if finder is not None:
            found += list(finder(node, constants)) or map(_with_input, finder(node, defaults))
    found = [_outside_subgraphs(layer, model) for layer in found]
    names = Counter(layer.name for layer in found)
    seen: Counter[str] = Counter()
    for index, layer in enumerate(found):
        if names[layer.name] > 1:
            seen[layer.name] += 1
            name = f"{layer.name}#{seen[layer.name]}"
            if isinstance(layer, Layer):
                layer.name = name
            else:
                found[index] = Left(name, layer.kind, layer.shape, layer.node, layer.weights, layer.reason)
    return found


def _with_input(layer: Layer | Left) -> Left:
    return Left(layer.name, layer.kind, layer.shape, layer.node, layer.weights, "the weight is an input of the model")


def _outside_subgraphs(layer: Layer | Left, model: ir.Model) -> Layer | Left:
    if isinstance(layer, Left) or layer.node.graph is model.graph:
        return layer
    return Left(layer.name, layer.kind, layer.shape, layer.node, layer.weights, "inside a subgraph")


def name_of(node: ir.Node, weight: ir.Value, constants: Constants) -> str:
    """What people call the layer: its stored weights, or its node where an exporter made that name up."""
    name = constants.root(weight).name or ""
    for suffix in (".float16", ".int8"):
        name = name.removesuffix(suffix)
    if name and not _MADE_UP.fullmatch(name):
        return name
    return node.name or name or node.outputs[0].name or node.op_type


def _linear(node: ir.Node, constants: Constants) -> Iterator[Layer | Left]:
    """A MatMul or a Gemm with a constant matrix."""
    gemm = node.op_type == "Gemm"
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None
    assert right is not None
    constant_left, constant_right = constants.is_constant(left), constants.is_constant(right)
    if constant_left == constant_right:
        return
    weight, x = (right, left) if constant_right else (left, right)
    array = constants.array(weight)
    if array is None or not _is_weight(array):
        return
    name, shape = name_of(node, weight, constants), tuple(array.shape)
    try:
        if constant_left:
            raise _Refusal("the weight stands on the left")
        _check_type(array)
        if array.ndim != 2:
            raise _Refusal(f"the weight has {array.ndim} axes")
        turned, given, alpha = False, array.shape[1], 1.0
        bias = residual = None
        upright = False
        if gemm:
            upright, turned = bool(_integer(node, "transB", 0)), bool(_integer(node, "transA", 0))
            alpha = _number(node, "alpha", 1.0)
            given = array.shape[0] if upright else array.shape[1]
            bias, residual = _gemm_addend(node, given, constants)
    except _Refusal as problem:
        yield Left(name, "linear", shape, node, (weight,), str(problem))
        return
    yield Layer(
        name, "linear", shape, node, x, (weight,), _loader(constants, weight, _upright(upright, alpha)),
        {"rows": given}, bias, turned, residual=residual,
    )  # fmt: skip


def _upright(is_upright: bool, factor: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        matrix = array if is_upright else array.T
        return matrix if factor == 1 else matrix * np.float32(factor)

    return change


def _gemm_addend(node: ir.Node, rows: int, constants: Constants) -> tuple[NDArray[np.float32] | None, ir.Value | None]:
    """The C of a Gemm as a bias or a residual."""
    addend = node.inputs[2] if len(node.inputs) > 2 else None
    beta = _number(node, "beta", 1.0)
    if addend is None or beta == 0:
        return None, None
    array = constants.array(addend)
    if array is not None and array.dtype == np.float32 and (array.ndim == 0 or array.size == array.shape[-1]):
        if array.size in (1, rows):
            return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (rows,)) * np.float32(beta)), None
    elif array is None and beta == 1 and same_shape(addend, node.outputs[0]):
        return None, addend
    raise _Refusal("its C is no bias")


def _convolution(node: ir.Node, constants: Constants) -> Iterator[Layer | Left]:
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None
    assert weight is not None
    array = constants.array(weight)
    if array is None or not _is_weight(array):
        return
    name, shape = name_of(node, weight, constants), tuple(array.shape)
    group = _integer(node, "group", 1)
    depthwise = group > 1 and array.shape[1] == 1
    kind = "depthwise" if depthwise else f"conv{array.ndim - 2}d"
    try:
        _check_type(array)
        if array.ndim not in (3, 4):
            raise _Refusal(f"a convolution over {array.ndim - 2} axes")
        if unknown := sorted(set(node.attributes) - _CONV_ATTRIBUTES):
            raise _Refusal(f"it has the attribute {unknown[0]}")
        axes = array.ndim - 2
        kernel = list(array.shape[2:])
        strides = _integers(node, "strides", [1] * axes)
        dilations = _integers(node, "dilations", [1] * axes)
        pads = _pads(node, x, kernel, strides, dilations)
        if min(pads) < 0:
            raise _Refusal("negative padding")
        bias = None
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = constants.array(node.inputs[2])
            if bias is None or bias.shape != (array.shape[0],) or bias.dtype != np.float32:
                raise _Refusal("its bias is not constant")
    except _Refusal as problem:
        yield Left(name, kind, shape, node, (weight,), str(problem))
        return
    attributes = {
        "rows": array.shape[0], "kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations,
        "group": group,
    }  # fmt: skip
    load = _loader(constants, weight, lambda array: array.reshape(array.shape[0], -1))
    yield Layer(name, kind, shape, node, x, (weight,), load, attributes, bias)


def _pads(node: ir.Node, x: ir.Value, kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """Begins, then ends, as the attribute has them."""
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if auto == "NOTSET":
        return _integers(node, "pads", [0] * (2 * len(kernel)))
    if auto == "VALID":
        return [0] * (2 * len(kernel))
    begins, ends = [], []
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        extent = 1 + (size - 1) * dilation
        total = extent - 1
        if stride != 1:
            known = x.shape[axis + 2] if x.shape is not None and len(x.shape) == len(kernel) + 2 else None
            if not isinstance(known, int):
                raise _Refusal("its padding depends on the size of the input")
            total = max(0, (-(-known // stride) - 1) * stride + extent - known)
        less, more = total // 2, total - total // 2
        begins.append(less if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else less)
    return begins + ends


def _lookup(node: ir.Node, constants: Constants) -> Iterator[Layer | Left]:
    table, indices = node.inputs[0], node.inputs[1]
    assert table is not None
    assert indices is not None
    if constants.is_constant(indices):
        return
    array = constants.array(table)
    if array is None or array.ndim < 2 or not _is_weight(array):
        return
    name, shape = name_of(node, table, constants), tuple(array.shape)
    axis = _integer(node, "axis", 0)
    if array.ndim != 2 or axis % array.ndim != 0 or array.dtype != np.float32:
        reason = f"{array.dtype} weights" if array.dtype != np.float32 else "no rows of a table are looked up"
        yield Left(name, "embedding", shape, node, (table,), reason)
        return
    load = _loader(constants, table, lambda array: array)
    attributes = {"columns": array.shape[1]}
    yield Layer(name, "embedding", shape, node, indices, (table,), load, attributes)


def _sequence(node: ir.Node, constants: Constants) -> Iterator[Layer | Left]:
    weights = [value for value in node.inputs[1:3] if value is not None]
    arrays = [constants.array(value) for value in weights]
    if len(arrays) < 2 or any(array is None or array.ndim != 3 for array in arrays):
        return
    name = name_of(node, weights[0], constants)
    yield recurrent_layer(node, name, constants)


def _other(node: ir.Node, constants: Constants) -> Iterator[Left]:
    """Layers for which there is no operator."""
    index, kind, reason = _OTHERS[node.op_type]
    weight = node.inputs[index] if index < len(node.inputs) else None
    array = constants.array(weight)
    if weight is not None and array is not None and array.ndim > 1:
        yield Left(name_of(node, weight, constants), kind, tuple(array.shape), node, (weight,), reason)


def same_shape(one: ir.Value, other: ir.Value) -> bool:
    """Whether two values have the same shape whatever the sizes of the inputs are, as far as that can be known."""
    if one.shape is None or other.shape is None:
        return False
    return same_sizes(one.shape.dims, other.shape.dims)


def same_sizes(one: Sequence[int | ir.SymbolicDim], other: Sequence[int | ir.SymbolicDim]) -> bool:
    """Whether sizes are the same one by one, as far as that can be known."""
    if len(one) != len(other):
        return False
    for left, right in zip(one, other, strict=True):
        known = isinstance(left, int) or (isinstance(left, ir.SymbolicDim) and left.value is not None)
        if not known or left != right:
            return False
    return True


def _loader(
    constants: Constants, weight: ir.Value, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> Callable[[], tuple[Matrix, ...]]:
    def load() -> tuple[Matrix, ...]:
        array = constants.array(weight)
        assert array is not None
        return (np.ascontiguousarray(change(array), np.float32),)

    return load


def _is_weight(array: NDArray[Any]) -> bool:
    return array.dtype.kind not in "iubOSU" and array.size > 0


def _check_type(array: NDArray[Any]) -> None:
    if array.dtype != np.float32:
        raise _Refusal(f"{array.dtype} weights")
    if not np.all(np.isfinite(array)):
        raise _Refusal("a weight is not finite")


def _integer(node: ir.Node, name: str, default: int) -> int:
    return int(node.attributes[name].as_int()) if name in node.attributes else default


def _integers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else default


def _number(node: ir.Node, name: str, default: float) -> float:
    return float(node.attributes[name].as_float()) if name in node.attributes else default


_FINDERS: dict[str, Callable[[ir.Node, Constants], Iterator[Layer | Left]]] = {
    "MatMul": _linear,
    "Gemm": _linear,
    "Conv": _convolution,
    "Gather": _lookup,
    "LSTM": _sequence,
    "GRU": _sequence,
    "ConvTranspose": _other,
    "RNN": _other,
    "MatMulInteger": _other,
    "QLinearMatMul": _other,
    "ConvInteger": _other,
    "QLinearConv": _other,
}
# Where they have their weights, what they are and why they stay.
_OTHERS = {
    "ConvTranspose": (1, "conv", "a transposed convolution"),
    "RNN": (1, "rnn", "neither LSTM nor GRU"),
    "MatMulInteger": (1, "linear", "8-bit activations"),
    "QLinearMatMul": (3, "linear", "8-bit activations"),
    "ConvInteger": (1, "conv", "8-bit activations"),
    "QLinearConv": (3, "conv", "8-bit activations"),
}
