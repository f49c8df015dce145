"""The traced graph with its sparse products on the native kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from isogrid.runtime.cost import MARGIN, Work, gain
from isogrid.runtime.layers import MaxPool2d, SparseConv2d, SparseLinear
from isogrid.runtime.matrix import SparseMatrix, Values
from isogrid.runtime.products import Product, aten, find_products, shape_of
from isogrid.runtime.sequences import replace_sequences


@dataclass(frozen=True)
class Choice:
    """What became of a layer.

    Attributes:
        name: of its weights in the model.
        kind: ``"linear"``, ``"conv1d"``, ``"conv2d"``, ``"depthwise"``, ``"lstm"``, ``"gru"`` or ``"embedding"``.
        shape: of the weights.
        sparsity: share of them that are zero.
        macs: multiply-adds of the dense layer on the example; 0 where they could not be counted.
        choice: ``"sparse"`` or ``"dense"``.
        gain: how many times faster sparse is expected to be (or was measured to be); None where nothing was.
        fused: what is done in the same pass, for people.
        reason: why, for people.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    sparsity: float
    macs: int
    choice: str
    gain: float | None
    fused: str
    reason: str


Decide = Callable[[Product, Work], "tuple[bool, float, str]"]
"""Whether a product becomes sparse, the expected gain and the reason."""


def by_cost(choices: Mapping[str, str] | None = None) -> Decide:
    """Decisions by the cost model, or as `choices` has them by name."""

    def decide(product: Product, work: Work) -> tuple[bool, float, str]:
        expected = gain(work)
        if choices is not None and product.name in choices:
            return choices[product.name] == "sparse", expected, "as told"
        if work.nonzeros == work.rows * work.columns:
            return False, expected, "no zeros"
        return expected >= MARGIN, expected, "cost model"

    return decide


def work_of(product: Product) -> Work:
    """What a product does on the example; sizes that vary count as they were traced."""
    weight = product.weight
    rows, columns = weight.shape[0], math.prod(weight.shape[1:])
    result = [_hint(size) for size in shape_of(product.nodes[0]) or ()]
    inputs = [_hint(size) for size in shape_of(product.x) or ()]
    positions = math.prod(result) // rows if result else 1
    return Work(rows, columns, int(torch.count_nonzero(weight)), max(positions, 1), math.prod(inputs))


def _hint(size: Any) -> int:
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return 1 if hint is None else int(hint)


def rewrite(
    graph: fx.GraphModule,
    decide: Decide,
    values: Values,
    *,
    scale: float = 1.0,
    share: bool = True,
    told: Mapping[str, str] | None = None,
) -> list[Choice]:
    """Replace products in place; returns what became of each.

    ``scale`` is the example's batch divided by the traced one, which may have been doubled.  With ``share`` products of
    the same input are computed in one pass.  ``told`` decides by name for recurrent layers and embeddings.
    """
    _drop_dropout(graph)
    products = find_products(graph)
    order = {node: index for index, node in enumerate(graph.graph.nodes)}
    choices: list[Choice] = []
    sparse: list[Product] = []
    depthwise: list[tuple[int, Product]] = []
    for product in products:
        _stop_before_mutation(product, order)
        work = work_of(product)
        if scale != 1:
            work = replace(work, positions=max(1, round(work.positions * scale)), inputs=round(work.inputs * scale))
        if product.depthwise:
            depthwise.append((len(choices), product))
            yes, expected, reason = False, None, "no sparse neighbour"
        else:
            yes, expected, reason = decide(product, work)
        choices.append(
            Choice(
                product.name, "depthwise" if product.depthwise else product.kind, tuple(product.weight.shape),
                1 - work.nonzeros / (work.rows * work.columns), work.macs, "sparse" if yes else "dense", expected,
                _fused(product) if yes else "", reason,
            )
        )  # fmt: skip
        if yes:
            sparse.append(product)
    if sparse:
        # A dense depthwise kernel of ours, since its normalisation and activation are fused too.
        for index, product in depthwise:
            if told is not None and told.get(product.name) == "dense":
                choices[index] = replace(choices[index], reason="as told")
                continue
            sparse.append(product)
            choices[index] = replace(
                choices[index], choice="sparse", fused=_fused(product), reason="beside sparse layers"
            )
    for number, group in enumerate(_groups(sparse) if share else [[product] for product in sparse]):
        if len(group) == 1:
            _replace(graph, group[0], values, f"isogrid_{number}")
        else:
            _replace_together(graph, group, values, f"isogrid_{number}")
    for name, kind, shape, sparsity, macs, yes, expected, fused, reason in replace_sequences(
        graph, values, told, lambda size: max(1, round(_hint(size) * (scale if not isinstance(size, int) else 1)))
    ):
        choice = "sparse" if yes else "dense"
        choices.append(Choice(name, kind, shape, sparsity, macs, choice, expected, fused if yes else "", reason))
    if any(choice.choice == "sparse" for choice in choices):
        _replace_pooling(graph)
        graph.graph.eliminate_dead_code()
        graph.graph.lint()
        graph.delete_all_unused_submodules()
        _delete_unused_tensors(graph)
        graph.recompile()
    return choices


def _fused(product: Product) -> str:
    parts = [
        "bias" if product.bias is not None else "",
        "batch norm" if product.folded else "",
        "residual" if product.addition is not None else "",
        "" if product.epilogue.activation == "none" else str(product.epilogue),
    ]
    return ", ".join(part for part in parts if part)


def _drop_dropout(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        if node.target in (aten.dropout.default, aten.dropout_.default) and node.args[2] is False:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def _stop_before_mutation(product: Product, order: Mapping[fx.Node, int]) -> None:
    """Undo what was fused if something between the product and its last node changes a tensor in place.

    The product moves to the place of its last node, where its input might then be another.
    """
    first, last = order[product.nodes[0]], order[product.nodes[-1]]
    own = set(product.nodes)
    for node, place in order.items():
        if first < place < last and node not in own and _mutates(node):
            kept = 2 if product.folded else 1
            del product.nodes[kept:]
            product.addition, product.epilogue = None, type(product.epilogue)()
            return


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _groups(products: list[Product]) -> list[list[Product]]:
    """Linear products of the same input, whose rows can be stacked, in one group each."""
    groups: list[list[Product]] = []
    by_input: dict[fx.Node, list[Product]] = {}
    for product in products:
        plain = product.kind == "linear" and product.addition is None and product.epilogue.activation == "none"
        if not plain:
            groups.append([product])
        elif (x := product.x) in by_input:
            by_input[x].append(product)
        else:
            by_input[x] = [product]
            groups.append(by_input[x])
    return groups


def _matrix(product: Product, values: Values) -> SparseMatrix:
    return SparseMatrix.from_dense(product.weight.flatten(1).numpy(), values, name=product.name)


def _replace(graph: fx.GraphModule, product: Product, values: Values, name: str) -> None:
    matrix = _matrix(product, values)
    end = product.nodes[-1]
    layer: SparseLinear | SparseConv2d
    if product.kind == "linear":
        layer = SparseLinear(matrix, product.bias, product.epilogue)
    else:
        kernel = product.weight.shape[2:] if product.kind == "conv2d" else (1, product.weight.shape[2])
        layer = SparseConv2d(
            matrix, product.bias, product.epilogue, channels=product.weight.shape[1] * product.groups, kernel=kernel,
            groups=product.groups, stride=product.stride, padding=product.padding, dilation=product.dilation,
        )  # fmt: skip
    graph.add_submodule(name, layer)
    with graph.graph.inserting_before(end):
        x, residual = product.x, product.residual
        if product.kind == "conv1d":
            x = graph.graph.call_function(aten.unsqueeze.default, (x, 2))
            if residual is not None:
                residual = graph.graph.call_function(aten.unsqueeze.default, (residual, 2))
        new = graph.graph.call_module(name, (x,) if residual is None else (x, residual))
        if product.kind == "conv1d":
            new = graph.graph.call_function(aten.squeeze.dim, (new, 2))
    new.meta["val"] = end.meta.get("val")
    _substitute(graph, product, new)


def _substitute(graph: fx.GraphModule, product: Product, new: fx.Node) -> None:
    product.nodes[-1].replace_all_uses_with(new)
    for node in reversed(product.nodes):
        graph.graph.erase_node(node)


def _replace_together(graph: fx.GraphModule, group: list[Product], values: Values, name: str) -> None:
    """One product for several with the same input, and its result cut into theirs."""
    stacked = torch.cat([product.weight for product in group])
    bias: Tensor | None = None
    if any(product.bias is not None for product in group):
        bias = torch.cat(
            [torch.zeros(product.weight.shape[0]) if product.bias is None else product.bias for product in group]
        )
    names = " or ".join(product.name for product in group)
    graph.add_submodule(name, SparseLinear(SparseMatrix.from_dense(stacked.numpy(), values, name=names), bias))
    with graph.graph.inserting_before(group[0].nodes[0]):
        whole = graph.graph.call_module(name, (group[0].x,))
    starts = itertools.accumulate([product.weight.shape[0] for product in group], initial=0)
    for product, start in zip(group, starts, strict=False):
        end = product.nodes[-1]
        with graph.graph.inserting_before(end):
            part = graph.graph.call_function(aten.narrow.default, (whole, -1, start, product.weight.shape[0]))
        part.meta["val"] = end.meta.get("val")
        _substitute(graph, product, part)


def _replace_pooling(graph: fx.GraphModule) -> None:
    for number, node in enumerate(list(graph.graph.nodes)):
        if node.target is not aten.max_pool2d.default or len(shape_of(node.args[0]) or ()) != 4:
            continue
        kernel = list(node.args[1])
        stride = list(node.args[2]) if len(node.args) > 2 and node.args[2] else kernel
        padding = list(node.args[3]) if len(node.args) > 3 else [0]
        dilation = list(node.args[4]) if len(node.args) > 4 else [1]
        if (len(node.args) > 5 and node.args[5]) or node.kwargs or node.meta["val"].dtype != torch.float32:
            continue
        name = f"isogrid_pool_{number}"
        graph.add_submodule(name, MaxPool2d(kernel, stride, padding, dilation))
        with graph.graph.inserting_before(node):
            new = graph.graph.call_module(name, (node.args[0],))
        new.meta["val"] = node.meta.get("val")
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)


def _delete_unused_tensors(graph: fx.GraphModule) -> None:
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    modules = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    for name, _ in [*graph.named_parameters(remove_duplicate=False), *graph.named_buffers(remove_duplicate=False)]:
        if name not in used and not any(name.startswith(f"{module}.") for module in modules):
            owner, _, attribute = name.rpartition(".")
            delattr(graph.get_submodule(owner), attribute)
