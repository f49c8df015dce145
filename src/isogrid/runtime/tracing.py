"""A model as a graph: traced once with `torch.export`, together with which inputs the graph is right for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree


class InputPlan:
    """What the inputs must be for the graph to be right.

    Attributes:
        spec: how the arguments nest.
        leaves: for each leaf either its value, or for a tensor its dtype and sizes: a number where it is fixed, a name
            where it may vary (the same name: the same size).
        guards: what the tracer assumed beyond that; it raises where that does not hold.  Not kept in pickles.
    """

    def __init__(self, spec: Any, leaves: tuple[Any, ...], guards: Callable[..., Any] | None) -> None:
        self.spec, self.leaves, self.guards = spec, leaves, guards
        self._known: dict[tuple[Any, ...], bool] = {}

    def __getstate__(self) -> dict[str, Any]:
        # As text: pickling a spec itself warns of its classes.
        return {**self.__dict__, "guards": None, "spec": pytree.treespec_dumps(self.spec)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, spec=pytree.treespec_loads(state["spec"]))

    def __deepcopy__(self, memo: dict[int, Any]) -> InputPlan:
        return self  # only what is known of shapes is ever added to it

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any] | None:
        """The leaves of a call, or None where the graph is not for it."""
        if not kwargs and len(args) == len(self.leaves) and all(type(arg) is Tensor for arg in args):
            flat = list(args)
        else:
            flat, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
            if spec != self.spec:
                return None
        if torch.compiler.is_compiling():
            return flat if self._fits(flat) else None
        key = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in flat)
        try:
            fits = self._known.get(key)
        except TypeError:  # a leaf that is not hashable was never traced
            return None
        if fits is None:
            fits = self._fits(flat) and self._guarded(flat)
            if len(self._known) < _MOST_KNOWN:
                self._known[key] = fits
        return flat if fits else None

    def _fits(self, flat: list[Any]) -> bool:
        sizes: dict[str, int] = {}
        for got, wanted in zip(flat, self.leaves, strict=True):
            if not isinstance(wanted, TensorPlan):
                if isinstance(got, Tensor) or got != wanted:
                    return False
            elif not isinstance(got, Tensor) or not wanted.fits(got, sizes):
                return False
        return True

    def _guarded(self, flat: list[Any]) -> bool:
        if self.guards is None:
            return True
        try:
            self.guards(*flat)
        except AssertionError:
            return False
        return True


_MOST_KNOWN = 256


@dataclass(frozen=True)
class TensorPlan:
    """A tensor input: its dtype, and each size as a number or a name."""

    dtype: torch.dtype
    sizes: tuple[int | str, ...]

    def fits(self, x: Tensor, named: dict[str, int]) -> bool:
        """Whether `x` is such a tensor; `named` collects what the names stand for."""
        if x.dtype != self.dtype or x.dim() != len(self.sizes):
            return False
        return all(
            (named.setdefault(size, got) == got) if isinstance(size, str) else size == got
            for size, got in zip(self.sizes, x.shape, strict=True)
        )


@dataclass(frozen=True)
class Traced:
    """A graph that takes the leaves of the inputs and returns the leaves of the outputs."""

    graph: fx.GraphModule
    inputs: InputPlan
    output_spec: Any


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any = None) -> Traced:
    """Trace a model in eval mode.

    Every size of every tensor input is left open where the model allows it, unless ``dynamic_shapes`` (as
    `torch.export.export` takes them) says otherwise.  A size of 1 would be taken for a constant, so the example is
    doubled along such an axis, if the model runs on that.

    Raises:
        Exception: whatever `torch.export` makes of a model it cannot trace.
    """
    if dynamic_shapes is not None:
        return _trace(model, args, kwargs, dynamic_shapes)
    attempts = [(_doubled(args), _doubled(kwargs)), (args, kwargs)]
    problem: Exception | None = None
    for these_args, these_kwargs in attempts:
        try:
            shapes = pytree.tree_map(_open, (these_args, dict(these_kwargs)))
            positional = dict(zip(_parameter_names(model, len(these_args)), shapes[0], strict=False))
            return _trace(model, these_args, these_kwargs, {**positional, **shapes[1]})
        except Exception as raised:  # torch.export raises whatever the model's own code or its tracer do
            problem = raised
    assert problem is not None
    raise problem


def _parameter_names(model: nn.Module, count: int) -> list[str]:
    import inspect

    names = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise TypeError("forward takes *args, whose sizes cannot be named")
        names.append(parameter.name)
    return names[:count]


def _open(leaf: Any) -> Any:
    return dict.fromkeys(range(leaf.dim()), torch.export.Dim.AUTO) if isinstance(leaf, Tensor) else None


def _doubled(tree: Any) -> Any:
    def double(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == 1:
            return torch.cat([leaf, leaf])
        return leaf

    return pytree.tree_map(double, tree)


def _trace(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Any) -> Traced:
    with _plain_attention(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, tuple(args), dict(kwargs), dynamic_shapes=shapes, strict=False)
        graph = program.module()
    assert isinstance(graph, fx.GraphModule)
    spec = graph._in_spec
    plans: list[Any] = []
    flat = pytree.tree_leaves((tuple(args), dict(kwargs)))
    for node, example in zip([n for n in graph.graph.nodes if n.op == "placeholder"], flat, strict=True):
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            plans.append(
                TensorPlan(value.dtype, tuple(_size(s, e) for s, e in zip(value.shape, example.shape, strict=True)))
            )
        else:
            plans.append(example)
    guards: Any = None
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            # The plan asks once for each shape, and can then go another way, which the graph could not.
            guards = graph._guards_fn
            graph.graph.erase_node(node)
    output_spec = graph._out_spec
    graph.graph.set_codegen(fx.graph.CodeGen())
    # A module of its own class: torch.export's refuses to be changed.
    graph = fx.GraphModule(graph, graph.graph)
    return Traced(graph, InputPlan(spec, tuple(plans), guards), output_spec)


def _size(size: Any, example: int) -> int | str:
    """A number, or the symbol's name; an expression of symbols (twice a size, say) is taken as its number here."""
    if isinstance(size, int):
        return size
    name = str(size)
    return name if name.isidentifier() else int(example)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as its products, rather than as one operator that hides them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
