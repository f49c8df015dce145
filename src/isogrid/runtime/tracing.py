"""A model as a graph: traced once with `torch.export`, together with which inputs the graph is right for."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import operator
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP
from torch.utils import _pytree as pytree

from isogrid.errors import UnsupportedError
from isogrid.evaluating import plain_attention
from isogrid.runtime.samples import Samples, samples_of

Sizes = set[tuple[str, int]]
"""Names of sizes, each with a number that the graph is wrong for."""


class InputPlan:
    """What the inputs must be for the graph to be right.

    Attributes:
        spec: how the arguments nest.
        leaves: for each leaf either its value, or for a tensor its dtype and sizes: a number where it is fixed, a name
            where it may vary (the same name: the same size).
        guards: what the tracer assumed beyond that.
        excluded: sizes of 0 and 1 that the graph turned out to be wrong for; the tracer assumes them away silently.
        mixed: sizes of 0 and 1 that it is right for only where these other sizes are the same: a batch of several
            inputs, each with a name of its own.
    """

    def __init__(
        self, spec: Any, leaves: tuple[Any, ...], guards: Guards, *, names: Sequence[str], keywords: Sequence[str]
    ) -> None:
        self.spec, self.leaves, self.guards = spec, leaves, guards
        self.excluded: Sizes = set()
        self.mixed: dict[tuple[str, int], set[str]] = {}
        self._names, self._keywords = tuple(names), tuple(keywords)
        self._positional = len(spec.children()[0].children())
        self._plain = not keywords and self._positional == len(leaves) and spec.children()[0].num_leaves == len(leaves)
        self._plain = self._plain and all(child.is_leaf() for child in spec.children()[0].children())
        self._known: dict[tuple[Any, ...], bool] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "spec": dump_spec(self.spec), "_known": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, spec=load_spec(state["spec"]))

    def __deepcopy__(self, memo: dict[int, Any]) -> InputPlan:
        return self  # only what is known of shapes is ever added to it

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any] | None:
        """The leaves of a call, or None where the graph is not for it."""
        if self._plain and not kwargs and len(args) == len(self.leaves) and all(type(arg) is Tensor for arg in args):
            flat = list(args)
        else:
            flat, spec = pytree.tree_flatten(self._arranged(args, kwargs))
            if spec != self.spec:
                return None
        return flat if self.takes(flat) else None

    def takes(self, flat: list[Any]) -> bool:
        """Whether the graph is for these leaves."""
        if torch.compiler.is_compiling():
            return self._fits(flat) and self._guarded(flat)
        key = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else (type(leaf), leaf) for leaf in flat)
        try:
            fits = self._known.get(key)
        except TypeError:  # a leaf that is not hashable was never traced
            return False
        if fits is None:
            fits = self._fits(flat) and self._guarded(flat)
            if len(self._known) < _MOST_KNOWN:
                self._known[key] = fits
        return fits

    def forget(self) -> None:
        """Ask anew which shapes the graph is for, `excluded` or `mixed` having changed."""
        self._known.clear()

    def _arranged(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call with the same inputs by position, and by keyword in the same order, as the example's."""
        args, left = tuple(args), dict(kwargs)
        for name in self._names[len(args) : self._positional]:
            if name not in left:
                break
            args += (left.pop(name),)
        extra = self._names[self._positional : len(args)]
        if len(args) == self._positional + len(extra) and not left.keys() & set(extra):
            left.update(zip(extra, args[self._positional :], strict=True))
            args = args[: self._positional]
        return args, {**{name: left[name] for name in self._keywords if name in left}, **left}

    def _fits(self, flat: list[Any]) -> bool:
        sizes: dict[str, int] = {}
        for got, wanted in zip(flat, self.leaves, strict=True):
            if not isinstance(wanted, TensorPlan):
                if type(got) is not type(wanted) or got != wanted:
                    return False
            elif not isinstance(got, Tensor) or not wanted.fits(got, sizes):
                return False
        if not self.excluded and not self.mixed:
            return True
        return not any(
            known in self.excluded or any(sizes[other] != known[1] for other in self.mixed.get(known, ()))
            for known in sizes.items()
        )

    def _guarded(self, flat: list[Any]) -> bool:
        if not self.guards.texts:
            return True
        args, kwargs = pytree.tree_unflatten(flat, self.spec)
        named = dict(zip(self._names, args, strict=False))
        if self.guards.rest is not None:
            named[self.guards.rest] = args[len(self._names) :]
        return self.guards.hold({**named, **kwargs})


class Guards:
    """Conditions on the inputs as Python expressions of ``L``, the inputs by name; they survive pickling.

    Attributes:
        rest: the name of what ``*args`` collects, if there is any.

    >>> Guards(["L['x'].size()[0] > 3"]).hold({"x": torch.zeros(4)})
    True
    """

    def __init__(self, texts: Sequence[str], rest: str | None = None) -> None:
        self.texts, self.rest = tuple(texts), rest
        self._check: Callable[[Mapping[str, Any]], bool] = self._compiled()

    def _compiled(self) -> Callable[[Mapping[str, Any]], bool]:
        # A function rather than expressions for eval, which torch.compile could not trace.
        lines = [f"    if not ({' '.join(text.split())}): return False" for text in self.texts]
        names: dict[str, Any] = {**SYMPY_INTERP, "inf": float("inf")}
        exec(compile("\n".join(["def check(L):", *lines, "    return True"]), "<guards>", "exec"), names)  # noqa: S102 - torch.export has written them
        check: Callable[[Mapping[str, Any]], bool] = names["check"]
        return check

    def hold(self, named: Mapping[str, Any]) -> bool:
        """Whether all conditions hold for inputs by name."""
        return bool(self._check(named))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_check": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._check = self._compiled()


def dump_spec(spec: Any) -> str | bytes:
    """How inputs or outputs nest, for a pickle: pickling a spec itself warns of its classes."""
    try:
        return pytree.treespec_dumps(spec)
    except NotImplementedError:  # named tuples
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return pickle.dumps(spec)


def load_spec(dumped: str | bytes) -> Any:
    """The inverse of `dump_spec`."""
    if isinstance(dumped, str):
        return pytree.treespec_loads(dumped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return pickle.loads(dumped)  # noqa: S301 - it is part of a pickle already


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
    samples: Samples | None


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
    # An axis of one that is not the first may be a batch too, but more often it is not, as the channel of grey images.
    attempts = [_doubled((args, kwargs)), _doubled((args, kwargs), first_only=True), (args, kwargs)]
    problem: Exception | None = None
    for these_args, these_kwargs in attempts:
        try:
            traced = _trace(model, these_args, these_kwargs, _all_open(model, these_args, these_kwargs))
            # A doubled axis may have turned out to be fixed (the steps of a recurrent layer), at twice what is wanted.
            if traced.inputs.flatten(tuple(args), kwargs) is not None:
                return traced
        except Exception as raised:  # torch.export raises whatever the model's own code or its tracer do
            problem = raised
    raise problem or UnsupportedError("The example is not among the inputs that the graph would be for.")


def _positional_names(model: nn.Module) -> tuple[list[str], str | None]:
    """Of the parameters of `forward` that take an input by position, and of the one that takes all others."""
    parameters = inspect.signature(model.forward).parameters.values()
    rest = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return names, rest[0] if rest else None


def _all_open(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every size of every input may vary, by the parameters of `forward` as torch.export wants it."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    shapes: dict[str, Any] = pytree.tree_map(_open, dict(bound))
    return shapes


def _open(leaf: Any) -> Any:
    return dict.fromkeys(range(leaf.dim()), torch.export.Dim.AUTO) if isinstance(leaf, Tensor) else None


def _doubled(tree: Any, first_only: bool = False) -> Any:
    def double(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            for axis in range(min(leaf.dim(), 1) if first_only else leaf.dim()):
                if leaf.shape[axis] == 1:
                    leaf = torch.cat([leaf, leaf], axis)
        return leaf

    return pytree.tree_map(double, tree)


def _trace(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Any) -> Traced:
    with plain_attention(), torch.no_grad(), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, tuple(args), dict(kwargs), dynamic_shapes=shapes, strict=False)
        graph = program.module(check_guards=False)  # the plan asks once for each shape, and can then go another way
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
    names, rest = _positional_names(model)
    output_spec = graph._out_spec
    graph.graph.set_codegen(fx.graph.CodeGen())
    # A module of its own class: torch.export's refuses to be changed.
    graph = fx.GraphModule(graph, graph.graph)
    _fold_constants(graph)
    plan = InputPlan(spec, tuple(plans), Guards(program._guards_code, rest), names=names, keywords=tuple(kwargs))
    return Traced(graph, plan, output_spec, samples_of(graph))


def _size(size: Any, example: int) -> int | str:
    """A number, or the symbol's name; an expression of symbols (twice a size, say) is taken as its number here."""
    if isinstance(size, int):
        return size
    name = str(size)
    return name if name.isidentifier() else int(example)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the pages that the tracer logs and prints about a model it cannot trace: the exception says enough."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("fx.experimental.symbolic_shapes", "_export")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _fold_constants(graph: fx.GraphModule) -> None:
    """Replace what depends on nothing but tensors of the model (a transpose, a mask times a weight) by attributes.

    Nothing is folded in a model that changes a tensor of its own when it is called.
    """
    values: dict[fx.Node, Any] = {}
    names: dict[fx.Node, str] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value: Any = graph
            for part in str(node.target).split("."):
                value = getattr(value, part, None)
            if isinstance(value, Tensor):
                values[node], names[node] = value.detach(), str(node.target)
        elif node.op == "call_function" and any(source in values for source in node.all_input_nodes):
            if _changes(node):
                return
            if all(source in values for source in node.all_input_nodes) and _repeatable(node):
                folded = _value(node, values)
                if folded is not None:
                    base = names[node.all_input_nodes[0]]
                    values[node], names[node] = (
                        folded,
                        f"{base}_{_suffix(node)}" if isinstance(folded, Tensor) else base,
                    )
    for node, value in values.items():
        if node.op != "get_attr" and isinstance(value, Tensor) and any(user not in values for user in node.users):
            _become_attribute(graph, node, value, names[node])
    graph.graph.eliminate_dead_code()


def _changes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _repeatable(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded not in target.tags


def _value(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """What the node computes, or None where that would take more memory than what it is computed from."""
    assert callable(node.target)
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    with torch.no_grad():
        result = node.target(*args, **kwargs)
    tensors = result if isinstance(result, (list, tuple)) else [result]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        return None
    room = sum(_elements(values[source]) for source in node.all_input_nodes)
    return result if _elements(result) <= room else None


def _elements(value: Any) -> int:
    return sum(tensor.numel() for tensor in value) if isinstance(value, (list, tuple)) else int(value.numel())


def _suffix(node: fx.Node) -> str:
    if node.target is operator.getitem:
        return str(node.args[1])
    assert isinstance(node.target, torch._ops.OpOverload)
    return node.target._schema.name.rpartition("::")[2]


def _become_attribute(graph: fx.GraphModule, node: fx.Node, value: Tensor, name: str) -> None:
    owner_name, _, attribute = name.rpartition(".")
    owner = graph.get_submodule(owner_name)
    while hasattr(owner, attribute):
        attribute += "_"
    owner.register_buffer(attribute, value)
    with graph.graph.inserting_before(node):
        new = graph.graph.get_attr(f"{owner_name}.{attribute}" if owner_name else attribute)
    new.meta.update(node.meta)
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
