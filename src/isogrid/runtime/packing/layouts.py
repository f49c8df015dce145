"""Reshapes around products: those that need not be, and those that bias and activation may be taken past."""

from __future__ import annotations

import math

import onnx_ir as ir

from isogrid.runtime.packing.constants import Constants
from isogrid.runtime.packing.finding import same_sizes
from isogrid.runtime.packing.layer import Layer


def drop_reshapes(model: ir.Model) -> None:
    """Multiply tensors of any number of axes as they are; in place.

    TensorFlow flattens them to matrices before a product and shapes the result as they were.
    """
    constants = Constants(model)
    for product in list(model.graph):
        if product.op_type != "MatMul" or product.domain != "" or not constants.is_constant(product.inputs[1]):
            continue
        flat, result = product.inputs[0], product.outputs[0]
        before = flat.producer() if flat is not None else None
        after = result.consumers()[0] if len(result.uses()) == 1 and not result.is_graph_output() else None
        if before is None or after is None or not _is_reshape(before) or not _is_reshape(after, result):
            continue
        x, y, weight = before.inputs[0], after.outputs[0], product.inputs[1]
        if x is None or weight is None or y.is_graph_output() or after.graph is not model.graph:
            continue
        if not _goes_together(x.shape, y.shape, weight.shape):
            continue
        product.replace_input_with(0, x)
        result.shape = y.shape
        y.replace_all_uses_with(result)
        model.graph.remove(after, safe=True)
        if not before.outputs[0].uses() and not before.outputs[0].is_graph_output():
            model.graph.remove(before, safe=True)


def _is_reshape(node: ir.Node, x: ir.Value | None = None) -> bool:
    return node.op_type == "Reshape" and node.domain == "" and (x is None or node.inputs[0] is x)


def _goes_together(x: ir.Shape | None, y: ir.Shape | None, weight: ir.Shape | None) -> bool:
    """Whether x times the weight is y as it stands."""
    if x is None or y is None or weight is None or len(weight) != 2 or len(x) != len(y) or len(x) < 2:
        return False
    columns, rows = weight.dims
    if not (isinstance(columns, int) and isinstance(rows, int) and x.dims[-1] == columns and y.dims[-1] == rows):
        return False
    return same_sizes(x.dims[:-1], y.dims[:-1])


def row_axes(layer: Layer, node: ir.Node, constants: Constants) -> tuple[int, int] | None:
    """Where the rows of a product lie once `node` has given it another shape: from one axis up to another.

    None where `node` does something else, or mixes them with other axes.
    """
    shape = node.outputs[0].shape
    if node.domain != "" or node.inputs[0] is not layer.result or shape is None:
        return None
    if layer.kind == "linear" and node.op_type == "Reshape":
        # What lies behind each other as many numbers as there are rows is one product, however many axes it has.
        for first in reversed(range(len(shape))):
            sizes = shape.dims[first:]
            if not all(isinstance(size, int) and size > 0 for size in sizes):
                return None
            if math.prod(int(size) for size in sizes if isinstance(size, int)) == layer.attributes["rows"]:
                return first, len(shape)
    if layer.kind != "linear" and node.op_type == "Squeeze" and len(node.inputs) == 2:
        axes = constants.array(node.inputs[1])
        if axes is not None and axes.size and min(axis % len(layer.shape) for axis in axes.reshape(-1).tolist()) >= 2:
            return 1, 2
    return None
