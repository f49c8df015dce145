"""LSTM and GRU nodes: which can be packed, and the order of their gates."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from isogrid.runtime.packing.constants import Constants
from isogrid.runtime.packing.layer import Layer, Left, Matrix

# Where the operators' gates (LSTM i f g o, GRU r z n) stand among ONNX's (i o f c, z r h), and the other way round.
GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
ONNX_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}

_USUAL = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}


def reordered(array: NDArray[Any], gates: tuple[int, ...], axis: int = 0) -> NDArray[Any]:
    """The blocks along `axis`, one a gate, in another order.

    >>> reordered(np.array([10, 11, 20, 21, 30, 31]), (1, 0, 2)).tolist()
    [20, 21, 10, 11, 30, 31]
    """
    blocks = np.split(array, len(gates), axis)
    return np.concatenate([blocks[gate] for gate in gates], axis)


def recurrent_layer(node: ir.Node, name: str, constants: Constants) -> Layer | Left:
    """The layer of an LSTM or GRU node whose W and R are constants of three axes."""
    inputs = [*node.inputs, None, None, None, None, None][:8]
    x, w, r, b, lengths, h, c, peepholes = inputs
    assert x is not None
    assert w is not None
    assert r is not None
    kind = node.op_type.lower()
    w_array, r_array = constants.array(w), constants.array(r)
    assert w_array is not None
    assert r_array is not None
    directions, rows, columns = w_array.shape
    shape = (directions, rows, columns + r_array.shape[2])
    reason = _refusal(node, w_array, r_array)
    if lengths is not None:
        reason = "sequences of different lengths"
    elif peepholes is not None:
        reason = "peepholes"
    bias = None if b is None else constants.array(b)
    if b is not None and (bias is None or bias.dtype != np.float32):
        reason = "its bias is not constant"
    if reason:
        return Left(name, kind, shape, node, (w, r), reason)
    gates = GATES[node.op_type]

    def load() -> tuple[Matrix, ...]:
        found = []
        wide, tall = constants.array(w), constants.array(r)
        assert wide is not None
        assert tall is not None
        for direction in range(directions):
            found += [np.ascontiguousarray(reordered(array[direction], gates)) for array in (wide, tall)]
        return tuple(found)

    if bias is not None:
        halves = [reordered(half, gates, 1) for half in np.split(bias, 2, axis=1)]
        bias = np.ascontiguousarray(np.concatenate(halves, axis=1))
    attributes = {"hidden_size": r_array.shape[2], "direction": _text(node, "direction", "forward")}
    states = (h, c) if node.op_type == "LSTM" else (h,)
    return Layer(name, kind, shape, node, x, (w, r), load, attributes, bias, states=states)


def _refusal(node: ir.Node, w: NDArray[Any], r: NDArray[Any]) -> str:
    if w.dtype != np.float32 or r.dtype != np.float32:
        return f"{w.dtype} weights"
    if not (np.all(np.isfinite(w)) and np.all(np.isfinite(r))):
        return "a weight is not finite"
    if "clip" in node.attributes:
        return "its cell is clipped"
    if "layout" in node.attributes and node.attributes["layout"].as_int() != 0:
        return "the batch comes first"
    if "input_forget" in node.attributes and node.attributes["input_forget"].as_int() != 0:
        return "input and forget gate are coupled"
    if node.op_type == "GRU":
        before = node.attributes.get("linear_before_reset")
        if before is None or before.as_int() == 0:
            return "linear_before_reset is 0"
    usual = _USUAL[node.op_type] * w.shape[0]
    if "activations" in node.attributes:
        given = [text.lower() for text in node.attributes["activations"].as_strings()]
        if given != usual:
            return "activations of its own"
    return ""


def _text(node: ir.Node, name: str, default: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else default
