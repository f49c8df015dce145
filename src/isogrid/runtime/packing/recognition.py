"""Which activation a few elementwise nodes are: they are tried on numbers, whatever way an exporter wrote them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from isogrid.runtime.epilogue import Epilogue
from isogrid.runtime.packing.constants import Constants

Array = NDArray[np.float64]

_LONGEST = 10
"""Nodes: the tanh form of GELU has eight."""
_SAME = 3e-6
"""Float32 constants, and the rounded 1/6 of a hard sigmoid, are off by less."""
_FARTHEST = 3.0e38
_ERF = np.frompyfunc(math.erf, 1, 1)

# Dense around zero, where activations bend, and to both ends.
_POINTS = np.concatenate([np.linspace(-16, 16, 6401), *(sign * np.logspace(1.3, 37, 120) for sign in (-1, 1))])


def follow(value: ir.Value, constants: Constants) -> tuple[list[ir.Node], Epilogue] | None:
    """The longest run of nodes after `value` that is one activation, and which; None where there is none.

    Nothing outside the run uses what is inside, `value` included, but its result.
    """
    run: list[ir.Node] = []
    inside: list[ir.Value] = [value]
    results: dict[int, Array] = {id(value): _POINTS}
    found: tuple[list[ir.Node], Epilogue] | None = None
    while len(run) < _LONGEST:
        node = _next(inside, run, constants)
        if node is None:
            break
        with np.errstate(all="ignore"):
            result = _apply(node, results, constants)
        if result is None:
            break
        run.append(node)
        inside.append(node.outputs[0])
        results[id(node.outputs[0])] = result
        if _closed(inside, run):
            epilogue = recognise(result)
            if epilogue is not None:
                found = list(run), epilogue
    return found


def recognise(result: Array) -> Epilogue | None:
    """The activation that gives `result` on this module's points.

    >>> recognise(np.maximum(_POINTS, 0))
    Epilogue(activation='relu', low=0.0, high=0.0)
    """
    if not np.all(np.isfinite(result)):
        return None
    for name, function in _FUNCTIONS.items():
        if _same(result, function(_POINTS)):
            return Epilogue(name)
    low, high = float(result[np.argmin(_POINTS)]), float(result[np.argmax(_POINTS)])
    far = float(np.max(_POINTS))
    if _same(result, _POINTS):
        return None
    if low < high and _same(result, np.clip(_POINTS, low, high)):
        return Epilogue("clip", -_FARTHEST if low == -far else low, _FARTHEST if high == far else high)
    slope = low / -far
    if slope < 1 and _same(result, np.where(_POINTS > 0, _POINTS, slope * _POINTS)):
        return Epilogue("leaky_relu", float(np.float32(slope)))
    return None


def _same(left: Array, right: Array) -> bool:
    return bool(np.all(np.abs(left - right) <= _SAME * np.maximum(1, np.abs(right))))


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _erf(x: Array) -> Array:
    return np.asarray(_ERF(x), np.float64)


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), np.float64)


def _hard_sigmoid(x: Array, alpha: float = 1 / 6, beta: float = 0.5) -> Array:
    return np.asarray(np.clip(alpha * x + beta, 0, 1), np.float64)


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * _sigmoid(x),
    "hard_swish": lambda x: x * _hard_sigmoid(x),
    "hard_sigmoid": _hard_sigmoid,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
}

_PLAIN: dict[str, Callable[..., Array]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power, "Min": np.minimum,
    "Max": np.maximum, "Neg": np.negative, "Exp": np.exp, "Sqrt": np.sqrt, "Tanh": np.tanh, "Erf": _erf,
    "Sigmoid": _sigmoid, "Relu": lambda x: np.maximum(x, 0), "Identity": lambda x: x, "Reciprocal": np.reciprocal,
    "Abs": np.abs,
}  # fmt: skip


def _next(inside: list[ir.Value], run: list[ir.Node], constants: Constants) -> ir.Node | None:
    """A further node that uses only what is inside and constants of one element."""
    members = {id(value) for value in inside}
    # First what the latest value needs: a run grows as a chain before it branches.
    for value in reversed(inside):
        for node in value.consumers():
            if node in run or node.graph is not run_graph(value) or len(node.outputs) != 1:
                continue
            if all(
                given is None or id(given) in members or constants.scalar(given) is not None for given in node.inputs
            ):
                return node
    return None


def run_graph(value: ir.Value) -> Any:
    """The graph that makes a value."""
    producer = value.producer()
    return value.graph if producer is None else producer.graph


def _closed(inside: list[ir.Value], run: list[ir.Node]) -> bool:
    return all(not value.is_graph_output() and all(node in run for node in value.consumers()) for value in inside[:-1])


def _apply(node: ir.Node, results: dict[int, Array], constants: Constants) -> Array | None:
    given: list[Any] = []
    for value in node.inputs:
        if value is None:
            given.append(None)
        elif id(value) in results:
            given.append(results[id(value)])
        else:
            # A constant of more axes than what it meets would add axes to it.
            if value.shape is not None and len(value.shape) > 1 and not _fits(value, node):
                return None
            given.append(constants.scalar(value))
    if node.domain not in ("", "com.microsoft"):
        return None
    result = _onnx(node, given) if node.domain == "" else _microsoft(node, given)
    return None if result is None else np.asarray(result, np.float64)


def _onnx(node: ir.Node, given: list[Any]) -> Any:
    if node.op_type in _PLAIN:
        return _PLAIN[node.op_type](*given) if len(given) <= 2 else None
    if node.op_type == "Clip":
        low, high = ([*given, None, None])[1:3]
        return np.clip(given[0], -np.inf if low is None else low, np.inf if high is None else high)
    if node.op_type == "LeakyRelu":
        return np.where(given[0] > 0, given[0], _number(node, "alpha", 0.01) * given[0])
    if node.op_type == "HardSigmoid":
        return _hard_sigmoid(given[0], _number(node, "alpha", 0.2), _number(node, "beta", 0.5))
    if node.op_type == "HardSwish":
        return given[0] * _hard_sigmoid(given[0])
    if node.op_type == "Swish":
        return given[0] * _sigmoid(_number(node, "alpha", 1.0) * given[0])
    if node.op_type == "Gelu":
        approximate = node.attributes.get("approximate")
        return _gelu_tanh(given[0]) if approximate is not None and approximate.value == "tanh" else _gelu(given[0])
    return None


def _microsoft(node: ir.Node, given: list[Any]) -> Any:
    if len(given) != 1:
        return None
    if node.op_type == "Gelu":
        return _gelu(given[0])
    if node.op_type == "FastGelu":
        return _gelu_tanh(given[0])
    if node.op_type == "QuickGelu":
        return given[0] * _sigmoid(_number(node, "alpha", 1.702) * given[0])
    return None


def _fits(value: ir.Value, node: ir.Node) -> bool:
    others = [given.shape for given in node.inputs if given is not None and given is not value]
    assert value.shape is not None
    return any(shape is not None and len(shape) >= len(value.shape) for shape in others)


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)
