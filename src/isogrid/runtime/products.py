"""Finding products with constant weights in a traced graph, and what may be fused with them."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from isogrid.runtime.epilogue import Epilogue
from isogrid.runtime.layers import same_padding

aten = torch.ops.aten


@dataclass
class Product:
    """A node that multiplies by constant weights, and the nodes that can be done in the same pass.

    Attributes:
        name: of the weights in the model.
        kind: ``"linear"``, ``"conv1d"`` or ``"conv2d"``.
        weight: ``[rows, columns]`` or ``[rows, channels of the group, *kernel]``, batch norm folded in.
        bias: ``[rows]`` or None.
        nodes: from the product's own to the last that is fused; the last one's value is the result.
        addition: the node that adds a residual before the activation.
    """

    name: str
    kind: str
    weight: Tensor
    bias: Tensor | None
    nodes: list[fx.Node]
    epilogue: Epilogue = field(default_factory=Epilogue)
    addition: fx.Node | None = None
    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    folded: bool = False

    # Read from the graph each time: what feeds this product may have been replaced since it was found.
    @property
    def x(self) -> fx.Node:
        """The node that gives the input."""
        node = self.nodes[0]
        found = node.args[1 if node.target is aten.addmm.default else 0]
        assert isinstance(found, fx.Node)
        return found

    @property
    def residual(self) -> fx.Node | None:
        """The node that gives what is added."""
        if self.addition is None:
            return None
        before = self.nodes[self.nodes.index(self.addition) - 1]
        found = self.addition.args[1 if self.addition.args[0] is before else 0]
        assert isinstance(found, fx.Node)
        return found

    @property
    def depthwise(self) -> bool:
        """Whether each channel meets only itself."""
        return self.kind != "linear" and self.groups > 1 and self.weight.shape[1] == 1


def find_products(graph: fx.GraphModule) -> list[Product]:
    """All products with constant weights, in order, each with its batch norm, residual and activation."""
    found = [product for node in list(graph.graph.nodes) if (product := _product(graph, node)) is not None]
    taken: set[fx.Node] = set()
    for product in found:
        _fold_batch_norm(graph, product)
        _fuse_residual(product, taken)
        _fuse_activation(product)
        taken.update(product.nodes)
    return found


def constant(graph: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor behind a node that reads an attribute of the model, if the graph does not change it."""
    return None if isinstance(node, fx.Node) and is_changed(node) else attribute(graph, node)


def is_changed(node: fx.Node) -> bool:
    """Whether something writes into the value of a node, or into a view of it."""
    for user in node.users:
        if is_getitem(user):
            if is_changed(user):
                return True
            continue
        schema = getattr(user.target, "_schema", None)
        for at, argument in enumerate(schema.arguments if schema is not None else ()):
            if argument.alias_info is None or _argument(user, at, argument.name) is not node:
                continue
            if argument.alias_info.is_write or is_changed(user):
                return True
    return False


def attribute(graph: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor behind a node that reads an attribute of the model."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part, None)
    return value.detach() if isinstance(value, Tensor) else None


def shape_of(node: fx.Node) -> tuple[Any, ...] | None:
    """The traced shape of a node's value, symbols for sizes that vary."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _product(graph: fx.GraphModule, node: fx.Node) -> Product | None:
    if node.op != "call_function":
        return None
    if node.target is aten.linear.default:
        x, weight, bias = node.args[0], node.args[1], _argument(node, 2, "bias")
        return _linear(graph, node, x, weight, bias)
    if node.target is aten.addmm.default and not node.kwargs:
        bias, x, weight = node.args[:3]
        return _linear(graph, node, x, weight, bias, transposed=True)
    if node.target in (aten.matmul.default, aten.mm.default):
        return _linear(graph, node, node.args[0], node.args[1], None, transposed=True)
    if node.target in (aten.conv2d.default, aten.conv2d.padding, aten.conv1d.default, aten.conv1d.padding):
        return _convolution(graph, node)
    return None


def _linear(
    graph: fx.GraphModule, node: fx.Node, x: Any, weight: Any, bias: Any, *, transposed: bool = False
) -> Product | None:
    numbers = constant(graph, weight)
    if numbers is None or numbers.dim() != 2 or numbers.dtype != torch.float32 or not isinstance(x, fx.Node):
        return None
    if numbers.numel() == 0:
        return None
    added = None
    if bias is not None:
        added = constant(graph, bias)
        if added is None or added.shape != (numbers.shape[1 if transposed else 0],):
            return None
    matrix = numbers.t() if transposed else numbers
    return Product(str(weight.target), "linear", matrix, added, [node])


def _convolution(graph: fx.GraphModule, node: fx.Node) -> Product | None:
    weight = constant(graph, node.args[1])
    bias_node = _argument(node, 2, "bias")
    bias = constant(graph, bias_node)
    x = node.args[0]
    shape = shape_of(x) if isinstance(x, fx.Node) else None
    if weight is None or weight.dtype != torch.float32 or shape is None or (bias_node is not None and bias is None):
        return None
    if weight.numel() == 0:
        return None
    axes = weight.dim() - 2
    if len(shape) != axes + 2:  # without a batch axis
        return None

    def each(index: int, name: str, default: int) -> tuple[int, ...]:
        value = _argument(node, index, name, default)
        value = [value] if isinstance(value, int) else list(value)
        return tuple(value * axes if len(value) == 1 else value)

    stride, dilation = each(3, "stride", 1), each(5, "dilation", 1)
    padding = _argument(node, 4, "padding", 0)
    if padding == "same":
        pads = same_padding(weight.shape[2:], dilation)
    else:
        one_side = (0,) * axes if padding == "valid" else each(4, "padding", 0)
        pads = (*one_side, *one_side)
    groups = _argument(node, 6, "groups", 1)
    if not all(isinstance(value, int) for value in (*stride, *pads, *dilation, groups)):
        return None
    if axes == 1:
        stride, dilation, pads = (1, *stride), (1, *dilation), (0, pads[0], 0, pads[1])
    return Product(
        str(node.args[1].target), f"conv{axes}d", weight, bias, [node], groups=groups, stride=stride, padding=pads,  # type: ignore[union-attr]
        dilation=dilation,
    )  # fmt: skip


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _fold_batch_norm(graph: fx.GraphModule, product: Product) -> None:
    norm = _only_user(product.nodes[-1])
    if norm is None or norm.target is not aten.batch_norm.default or product.kind == "linear":
        return
    _, scale, shift, mean, variance, training, _, epsilon = norm.args[:8]
    if training or norm.args[0] is not product.nodes[-1]:
        return
    running = constant(graph, mean), constant(graph, variance)
    if running[0] is None or running[1] is None:
        return
    factor = torch.rsqrt(running[1].double() + float(epsilon))  # type: ignore[arg-type]
    gamma, beta = constant(graph, scale), constant(graph, shift)
    if (scale is not None and gamma is None) or (shift is not None and beta is None):
        return
    if gamma is not None:
        factor = factor * gamma.double()
    before = torch.zeros_like(factor) if product.bias is None else product.bias.double()
    after = (before - running[0].double()) * factor + (0 if beta is None else beta.double())
    wide = factor.reshape(-1, *[1] * (product.weight.dim() - 1))
    product.weight = (product.weight.double() * wide).float()
    product.bias = after.float()
    product.nodes.append(norm)
    product.folded = True


def _fuse_residual(product: Product, taken: set[fx.Node]) -> None:
    end = product.nodes[-1]
    add = _only_user(end)
    if add is None or add in taken or add.target not in (aten.add.Tensor, aten.add_.Tensor) or add.kwargs:
        return
    if len(add.args) != 2 or (add.target is aten.add_.Tensor and add.args[0] is not end):
        return
    other = add.args[1] if add.args[0] is end else add.args[0]
    if not isinstance(other, fx.Node) or other is end or shape_of(end) is None or shape_of(other) != shape_of(end):
        return
    product.nodes.append(add)
    product.addition = add


def _fuse_activation(product: Product) -> None:
    end = product.nodes[-1]
    pair = _sparse_activation(product, end)
    if pair:
        return
    user = _only_user(end)
    if user is None or not user.args or user.args[0] is not end:
        return
    epilogue = _epilogue(user)
    if epilogue is not None:
        product.epilogue = epilogue
        product.nodes.append(user)


def _sparse_activation(product: Product, end: fx.Node) -> bool:
    """`sparse_relu` as traced: what does not pass the threshold is filled with zero."""
    if len(end.users) != 2:
        return False
    below, fill = sorted(end.users, key=lambda user: user.target is not aten.le.Scalar)
    if below.target is not aten.le.Scalar or fill.target is not aten.masked_fill.Scalar:
        return False
    if fill.args[:2] != (end, below) or fill.args[2] != 0 or _only_user(below) is not fill:
        return False
    threshold = below.args[1]
    if not isinstance(threshold, (int, float)):
        return False
    product.epilogue = Epilogue("sparse_relu", float(threshold))
    product.nodes += [below, fill]
    return True


_PLAIN = {
    aten.relu.default: "relu",
    aten.relu_.default: "relu",
    aten.silu.default: "silu",
    aten.silu_.default: "silu",
    aten.hardswish.default: "hard_swish",
    aten.hardswish_.default: "hard_swish",
    aten.hardsigmoid.default: "hard_sigmoid",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
}


def _epilogue(node: fx.Node) -> Epilogue | None:
    target = node.target
    if target in _PLAIN:
        return Epilogue(_PLAIN[target])
    if target is aten.gelu.default:
        return Epilogue("gelu_tanh" if _argument(node, 1, "approximate", "none") == "tanh" else "gelu")
    if target in (aten.hardtanh.default, aten.hardtanh_.default):
        return _clip(_argument(node, 1, "min_val", -1.0), _argument(node, 2, "max_val", 1.0))
    if target in (aten.relu6.default, aten.relu6_.default):
        return _clip(0.0, 6.0)
    if target is aten.clamp.default:
        low, high = _argument(node, 1, "min"), _argument(node, 2, "max")
        return _clip(-float("inf") if low is None else low, float("inf") if high is None else high)
    if target in (aten.leaky_relu.default, aten.leaky_relu_.default):
        slope = _argument(node, 1, "negative_slope", 0.01)
        return Epilogue("leaky_relu", float(slope)) if isinstance(slope, (int, float)) else None
    return None


def _clip(low: Any, high: Any) -> Epilogue | None:
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return None
    return Epilogue("clip", float(low), float(high))


def is_getitem(node: fx.Node) -> bool:
    """Whether a node takes one of several results."""
    return node.target is operator.getitem
