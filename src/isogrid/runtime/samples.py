"""Whether a graph computes each sample by itself, so that a large batch may be run piece by piece.

The activations of a piece stay in the processor's caches, and in memory that is already there: those of a whole batch
are written to fresh pages, layer by layer.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

PIECE_BYTES = 4 << 20
"""The largest activation of a piece: a part of a shared L3 cache."""


@dataclass(frozen=True)
class Samples:
    """How a batch may be cut.

    Attributes:
        size: the name of the inputs' first size.
        piece: how many samples are computed at a time.
    """

    size: str
    piece: int


def samples_of(graph: fx.GraphModule) -> Samples | None:
    """How the batch of a traced graph may be cut, or None where it is not sure that no sample sees another.

    Every tensor that depends on the inputs must have their first size, a free one, as its first size and nowhere else,
    and every operation must be known to keep samples apart.
    """
    size: Any = None
    depends: set[fx.Node] = set()
    most = 0
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            if not isinstance(value, Tensor):
                continue
            size = value.shape[0] if size is None and value.dim() else size
            if isinstance(size, int) or not _first(value, size):
                return None
        elif node.op == "call_function" and any(source in depends for source in node.all_input_nodes):
            if not _apart(node, depends, size):
                return None
        elif node.op == "call_function" and not _repeatable(node):
            return None
        elif node.op == "output":
            leaves = list(_leaves(node.args))
            if not leaves or any(leaf not in depends or _value(leaf) is None for leaf in leaves):
                return None
            continue
        else:
            continue
        depends.add(node)
        most = max([most, *(_bytes(tensor) for tensor in _tensors(node))])
    if size is None or not str(size).isidentifier():
        return None
    return Samples(str(size), max(1, PIECE_BYTES // max(1, most)))


def _value(node: Any) -> Tensor | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def _tensors(node: fx.Node) -> list[Tensor]:
    return [value for value in _leaves(node.meta.get("val")) if isinstance(value, Tensor)]


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _leaves(part)
    else:
        yield tree


def _first(tensor: Tensor, size: Any) -> bool:
    """Whether the samples are the first axis, and no other one knows their number."""
    if tensor.dim() == 0 or str(tensor.shape[0]) != str(size):
        return False
    others: list[Any] = list(tensor.shape[1:])
    known = {
        str(symbol) for other in others if isinstance(other, torch.SymInt) for symbol in other.node.expr.free_symbols
    }
    return str(size) not in known


def _bytes(tensor: Tensor) -> int:
    """Of one sample, as large as in the example."""
    sizes: list[Any] = list(tensor.shape[1:])
    return tensor.element_size() * math.prod(
        int(size.node.hint or 1) if isinstance(size, torch.SymInt) else size for size in sizes
    )


def _apart(node: fx.Node, depends: set[fx.Node], size: Any) -> bool:
    if node.target is operator.getitem:
        return bool(_tensors(node)) and all(_first(tensor, size) for tensor in _tensors(node))
    if _is_size(node):
        # Harmless where it only shapes a tensor.
        return all(_name(user) in _SHAPING or _is_size(user) for user in node.users)
    tensors = _tensors(node)
    if not tensors or not all(_first(tensor, size) for tensor in tensors):
        return False
    rule = _RULES.get(_name(node))
    return rule is not None and rule(node, depends)


def _repeatable(node: fx.Node) -> bool:
    """Whether what does not depend on the inputs is the same for every piece: neither a count of calls nor noise."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return target is operator.getitem
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (int, torch.SymInt))


def _name(node: fx.Node) -> str:
    target = node.target
    return target._opname if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten" else ""


def _dim(node: fx.Node, at: int, name: str = "dim") -> Any:
    return node.args[at] if len(node.args) > at else node.kwargs.get(name)


def _rank(node: Any) -> int:
    value = _value(node)
    return -1 if value is None else value.dim()


def _elementwise(node: fx.Node, depends: set[fx.Node]) -> bool:
    """Operands that are samples have the result's axes; others are the same for all samples."""
    rank = _rank(node)
    for source in node.all_input_nodes:
        if source in depends:
            if _rank(source) != rank:
                return False
        elif not _shared(source, rank):
            return False
    return True


def _shared(source: fx.Node, rank: int) -> bool:
    value = _value(source)
    return value is not None and (value.dim() < rank or value.shape[0] == 1)


def _layer(node: fx.Node, depends: set[fx.Node]) -> bool:
    """The first operand holds the samples, the others are weights."""
    return node.args[0] in depends and not any(source in depends for source in node.all_input_nodes[1:])


def _batched_layer(node: fx.Node, depends: set[fx.Node]) -> bool:
    return _layer(node, depends) and _rank(node.args[0]) >= 2


def _normalised(node: fx.Node, depends: set[fx.Node]) -> bool:
    shape = node.args[1]
    return _layer(node, depends) and isinstance(shape, (list, tuple)) and len(shape) < _rank(node.args[0])


def _evaluating(node: fx.Node, depends: set[fx.Node]) -> bool:
    """Batch norm by the statistics of training, or dropout that drops nothing."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    at = names.index("training" if "training" in names else "train")
    return _layer(node, depends) and _dim(node, at, names[at]) is False


def _not_along_samples(at: int) -> Callable[[fx.Node, set[fx.Node]], bool]:
    def rule(node: fx.Node, depends: set[fx.Node]) -> bool:
        dims = _dim(node, at)
        dims = [dims] if isinstance(dims, int) else dims
        sources = list(_leaves(node.args[0]))
        ranks = {_rank(source) for source in sources}
        if not dims or len(ranks) != 1 or not all(isinstance(dim, int) for dim in dims):
            return False
        rank = ranks.pop()
        return all(source in depends for source in sources) and all(dim % rank != 0 for dim in dims)

    return rule


def _exchanged(node: fx.Node, depends: set[fx.Node]) -> bool:
    return _not_along_samples(1)(node, depends) and _not_along_samples(2)(node, depends)


def _sliced(node: fx.Node, depends: set[fx.Node]) -> bool:
    everything = node.args[1:] in ((0,), (0, 0), (0, 0, sys.maxsize), (0, None, None))
    return everything or _not_along_samples(1)(node, depends)


def _permuted(node: fx.Node, depends: set[fx.Node]) -> bool:
    dims = _dim(node, 1, "dims")
    return node.args[0] in depends and isinstance(dims, (list, tuple)) and bool(dims) and dims[0] == 0


def _viewed(node: fx.Node, depends: set[fx.Node]) -> bool:
    """With the same first size before and after, a row-major view keeps each sample's numbers together."""
    return node.args[0] in depends


def _expanded(node: fx.Node, depends: set[fx.Node]) -> bool:
    """A token of the model's own, say, that is set before those of each sample."""
    source = node.args[0]
    return source in depends or (isinstance(source, fx.Node) and _shared(source, _rank(node)))


def _attention(node: fx.Node, depends: set[fx.Node]) -> bool:
    operands = node.args[:3]
    if any(operand not in depends or _rank(operand) != 4 for operand in operands):
        return False
    return all(source in depends or _shared(source, 4) for source in node.all_input_nodes[3:])


def _product(node: fx.Node, depends: set[fx.Node]) -> bool:
    left, right = node.args[:2]
    if left in depends and right in depends:
        return _rank(left) == _rank(right) >= 3
    return left in depends and _rank(left) >= 2 and 1 <= _rank(right) <= 2


def _looked_up(node: fx.Node, depends: set[fx.Node]) -> bool:
    return node.args[0] not in depends and node.args[1] in depends


_ELEMENTWISE = (
    "relu relu_ gelu silu silu_ sigmoid sigmoid_ tanh tanh_ hardswish hardswish_ hardsigmoid hardtanh hardtanh_ clamp "
    "clamp_min clamp_max leaky_relu leaky_relu_ elu elu_ softplus mish neg abs exp sqrt rsqrt reciprocal pow square "
    "add add_ sub mul mul_ div where gt ge lt le eq ne logical_and logical_or logical_not bitwise_not masked_fill "
    "clone contiguous to _to_copy detach alias threshold maximum minimum"
)
_POOLS = "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
_SHAPING = frozenset(["view", "reshape", "expand", "_unsafe_view", "unflatten", "flatten"])
_RULES: dict[str, Callable[[fx.Node, set[fx.Node]], bool]] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(["conv1d", "conv2d", "conv3d", "convolution", "linear", "group_norm"], _batched_layer),
    **dict.fromkeys((_POOLS + "constant_pad_nd pad").split(), _layer),
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalised),
    **dict.fromkeys(["batch_norm", "dropout"], _evaluating),
    **dict.fromkeys(
        ["softmax", "log_softmax", "mean", "sum", "amax", "amin", "argmax", "cumsum", "cat", "squeeze", "select"],
        _not_along_samples(1),
    ),
    "slice": _sliced,
    **dict.fromkeys(["chunk", "split", "split_with_sizes"], _not_along_samples(2)),
    "transpose": _exchanged,
    "permute": _permuted,
    **dict.fromkeys([*_SHAPING, "unsqueeze"], _viewed),
    "expand": _expanded,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(["matmul", "bmm"], _product),
    "embedding": _looked_up,
}
