"""LSTM, GRU and embedding nodes of a traced graph, and the sparse layers that take their place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from isogrid.runtime.cost import MARGIN, Work, gain
from isogrid.runtime.embedding import SparseEmbedding
from isogrid.runtime.matrix import SparseMatrix, Values
from isogrid.runtime.products import aten, attribute, constant, is_changed, shape_of
from isogrid.runtime.recurrent import SparseGRU, SparseLSTM

_EMBEDDING_SPARSITY = 0.5
"""From this share of zeros on a table is smaller sparse; a lookup takes no longer."""


class Flat(nn.Module):
    """A recurrent layer whose results stand next to each other, as the traced operator has them."""

    def __init__(self, layer: SparseGRU | SparseLSTM) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """``(y, h)`` of a GRU, ``(y, h, c)`` of an LSTM."""
        if isinstance(self.layer, SparseLSTM):
            y, (h, c) = self.layer(x, states)
            return y, h, c
        return tuple(self.layer(x, *states))


def replace_sequences(
    graph: fx.GraphModule, values: Values, told: Mapping[str, str] | None, hint: Any
) -> list[tuple[Any, ...]]:
    """Replace what pays, in place; for each node the fields of a `rewriting.Choice`, in order.

    ``hint`` gives a number for a traced size.
    """
    found = []
    for node in list(graph.graph.nodes):
        if node.target in (aten.gru.input, aten.lstm.input):
            found += _recurrent(graph, node, values, told, hint)
        elif node.target is aten.embedding.default:
            found += _embedding(graph, node, values, told)
    return found


def _recurrent(
    graph: fx.GraphModule, node: fx.Node, values: Values, told: Mapping[str, str] | None, hint: Any
) -> list[tuple[Any, ...]]:
    x, hx, parameters, has_bias, layers, _, training, bidirectional, batch_first = node.args
    weights = [constant(graph, parameter) for parameter in parameters]  # type: ignore[union-attr]
    shape = shape_of(x)  # type: ignore[arg-type]
    if training or shape is None or any(weight is None or weight.dtype != torch.float32 for weight in weights):
        return []
    kind = "gru" if node.target is aten.gru.input else "lstm"
    cell: nn.RNNBase = (nn.GRU if kind == "gru" else nn.LSTM)(
        int(weights[0].shape[1]),  # type: ignore[union-attr]
        int(weights[1].shape[1]),  # type: ignore[union-attr]
        num_layers=layers,
        bias=has_bias,
        batch_first=batch_first,
        bidirectional=bidirectional,
    )
    cell.eval()
    names = [name for group in cell._all_weights for name in group]
    if len(names) != len(weights) or any(
        getattr(cell, name).shape != weight.shape  # type: ignore[union-attr]
        for name, weight in zip(names, weights, strict=True)
    ):
        return []  # projections, which have more weights
    with torch.no_grad():
        for name, weight in zip(names, weights, strict=True):
            getattr(cell, name).copy_(weight)
    matrices = [weight for weight in weights if weight is not None and weight.dim() == 2]
    total = sum(weight.numel() for weight in matrices)
    nonzeros = sum(int(torch.count_nonzero(weight)) for weight in matrices)
    hidden = cell.hidden_size
    axis = 0 if batch_first else 1
    batch, steps = hint(shape[axis]), hint(shape[1 - axis])
    # A step is a product with as many columns as there are samples, and nothing but its weights is large.
    work = Work(total // hidden, hidden, nonzeros, batch, batch * hidden)
    name = str(parameters[0].target)  # type: ignore[union-attr, index]
    yes, expected, reason = _decide(name, work, told)
    if yes:
        layer = (SparseGRU if kind == "gru" else SparseLSTM).from_module(
            cell, values, owner=name.removesuffix(names[0])
        )
        _call(graph, node, Flat(layer), (x, *(hx if isinstance(hx, (list, tuple)) else (hx,))))
    macs = total * batch * steps
    return [(name, kind, (total // hidden, hidden), 1 - nonzeros / total, macs, yes, expected, "gates", reason)]


def _embedding(
    graph: fx.GraphModule, node: fx.Node, values: Values, told: Mapping[str, str] | None
) -> list[tuple[Any, ...]]:
    source = node.args[0]
    table = attribute(graph, source)
    if table is None or table.dtype != torch.float32 or table.dim() != 2 or table.numel() == 0:
        return []
    sparsity = 1 - int(torch.count_nonzero(table)) / table.numel()
    name = str(source.target)  # type: ignore[union-attr]
    yes = sparsity >= _EMBEDDING_SPARSITY
    reason = "smaller" if yes else "few zeros"
    if told is not None and name in told:
        yes, reason = told[name] == "sparse", "as told"
    if is_changed(source):  # type: ignore[arg-type]
        yes, reason = False, "changes when it is read"
    if yes:
        matrix = SparseMatrix.from_dense(table.numpy(), values, name=name)
        _call(graph, node, SparseEmbedding(matrix), (node.args[1],))
    return [(name, "embedding", tuple(table.shape), sparsity, 0, yes, None, "", reason)]


def _decide(name: str, work: Work, told: Mapping[str, str] | None) -> tuple[bool, float, str]:
    expected = gain(work)
    if told is not None and name in told:
        return told[name] == "sparse", expected, "as told"
    if math.prod((work.rows, work.columns)) == work.nonzeros:
        return False, expected, "no zeros"
    return expected >= MARGIN, expected, "cost model"


def _call(graph: fx.GraphModule, node: fx.Node, module: nn.Module, args: tuple[Any, ...]) -> None:
    name = f"isogrid_{node.name}"
    graph.add_submodule(name, module)
    with graph.graph.inserting_before(node):
        new = graph.graph.call_module(name, args)
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)
