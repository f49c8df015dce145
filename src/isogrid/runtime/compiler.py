"""`isogrid.compile`: a pruned model on native sparse kernels."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from isogrid.errors import UnsupportedError, UsageError, first_line
from isogrid.evaluating import plain_attention, positional
from isogrid.formats.files import write_atomically
from isogrid.names import unknown_name
from isogrid.runtime import operations
from isogrid.runtime.body import Body
from isogrid.runtime.matrix import VALUES, Values
from isogrid.runtime.rewriting import Choice, by_cost, rewrite
from isogrid.runtime.samples import Samples
from isogrid.runtime.swapping import swap
from isogrid.runtime.tracing import InputPlan, TensorPlan, Traced, dump_spec, load_spec, trace
from isogrid.runtime.tuning import Stopwatch, seconds_of


class Compiled(nn.Module):
    """A model on sparse kernels, for inference: called like the original, on any batch size.

    Attributes:
        choices: what became of each layer.
        notes: what a user should know, one sentence each: why something was left out.
    """

    def __init__(self, body: nn.Module, choices: list[Choice], notes: list[str], traced: Traced | None = None) -> None:
        super().__init__()
        self.body = body
        self.choices = choices
        self.notes = notes
        self._inputs: InputPlan | None = None if traced is None else traced.inputs
        self._samples: Samples | None = None if traced is None else traced.samples
        self._single = traced is not None and traced.output_spec.is_leaf()
        self._output_spec: Any = None if traced is None or self._single else traced.output_spec
        # Not a submodule: it is not part of what was compiled, only what answers for inputs that were not traced.
        object.__setattr__(self, "_original", None)
        super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original returns, within rounding.

        Raises:
            UnsupportedError: an input requires a gradient.
            UsageError: the graph is not for inputs of these shapes and the original is gone (after unpickling).
        """
        if self._inputs is None:
            return self.body(*args, **kwargs)
        flat = self._inputs.flatten(args, kwargs)
        if flat is None:
            original = self.__dict__.get("_original")
            if original is None:
                raise UsageError(
                    f"A compiled model got inputs {_shapes(args, kwargs)}, for which it was not traced; compile the "
                    "model again with an example of that shape."
                )
            with torch.no_grad():
                return original(*args, **kwargs)
        pieces = self._pieces(flat)
        outputs = self.body(*flat) if pieces is None else [torch.cat(parts) for parts in zip(*pieces, strict=True)]
        return outputs[0] if self._single else pytree.tree_unflatten(outputs, self._output_spec)

    def _pieces(self, flat: list[Any]) -> list[Any] | None:
        """What comes out of a large batch piece by piece, or None where it is to be run as a whole."""
        if self._samples is None or self._inputs is None or operations.is_traced():
            return None
        step = self._samples.piece
        count = next(leaf.shape[0] for leaf in flat if isinstance(leaf, Tensor))
        if count <= step:
            return None
        cut = [
            [leaf[first : first + step] if isinstance(leaf, Tensor) else leaf for leaf in flat]
            for first in range(0, count, step)
        ]
        # The graph may not be for a single sample; only the last piece has another size than the first.
        if not self._inputs.takes(cut[0]) or not self._inputs.takes(cut[-1]):
            return None
        return [self.body(*leaves) for leaves in cut]

    def train(self, mode: bool = True) -> Compiled:
        """Refused for ``True``.

        Raises:
            UnsupportedError: ``mode`` is true.
        """
        if mode:
            raise UnsupportedError("A compiled model cannot be trained; train the original and compile it again.")
        super().train(False)
        return self

    @property
    def coverage(self) -> float:
        """Share of the multiply-adds of all products that run on sparse kernels."""
        total = sum(choice.macs for choice in self.choices)
        return sum(c.macs for c in self.choices if c.choice == "sparse") / total if total else 0.0

    def report(self) -> str:
        """A table of the layers: what was chosen, what it is expected to gain, and what is fused."""
        rows = [("layer", "kind", "shape", "sparsity", "choice", "gain", "fused", "reason")]
        for c in self.choices:
            expected = "" if c.gain is None else f"{c.gain:.1f}x"
            shape = "x".join(map(str, c.shape))
            rows.append((c.name, c.kind, shape, f"{100 * c.sparsity:.1f} %", c.choice, expected, c.fused, c.reason))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append(f"{100 * self.coverage:.1f} % of the multiply-adds run on sparse kernels")
        return "\n".join([*lines, *self.notes])

    def save_choices(self, path: str | os.PathLike[str]) -> None:
        """Write the choices as JSON, for ``compile(..., choices=path)``.

        Raises:
            RunError: the file cannot be written.
        """
        text = json.dumps({choice.name: choice.choice for choice in self.choices}, indent=1)
        write_atomically(path, (text + "\n").encode())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_original": None, "_output_spec": self._output_spec and dump_spec(self._output_spec)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._output_spec = self._output_spec and load_spec(self._output_spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        for name, value in self.__dict__.items():
            shared = name in ("_original", "_output_spec")
            copied.__dict__[name] = value if shared else copy.deepcopy(value, memo)
        return copied


def compile(  # noqa: A001 - the name that torch.compile has taught everyone
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    values: Values = "fp32",
    tune: str = "model",
    choices: Mapping[str, str] | str | os.PathLike[str] | None = None,
) -> Compiled:
    """A module that computes what ``model`` does, its sparse layers on native kernels.

    The model is traced (`torch.export`), batch norms are folded into their convolutions, activations and residual
    additions are fused with the products before them, products of the same input (q, k and v) are computed in one pass,
    and each layer with enough zeros is replaced.  A large batch is run in pieces that stay in the processor's caches,
    where the graph shows that no sample sees another.  Where a model cannot be traced its layers are replaced one by
    one, and ``report()`` says so.  The result has been compared with the original on the example.

    Args:
        model: in eval mode, float32, on the CPU; it is not changed.  Inputs of shapes that the graph is not for go to
            it, so it should be kept as it is.
        example: the positional inputs of a call: a tensor, or a sequence of them.
        kwargs: its keyword inputs.
        dynamic_shapes: which sizes may vary, as `torch.export.export` takes it; None leaves all open that the model
            allows.
        values: how weights are stored: ``"fp32"``, ``"fp16"`` or ``"int8"`` with a scale a row; arithmetic is float32.
        tune: ``"model"`` decides by a cost model, the same everywhere; ``"measure"`` times each layer with cold weights
            and the whole at the end, and gives back the dense model if that was faster.
        choices: decisions by layer, or a file of them from `Compiled.save_choices`, which replace the cost model's.

    Raises:
        TrainingError: a weight that is to be rounded is not finite.
        UnsupportedError: the model is in training mode, not float32 on the CPU, compiled already, or answers
            differently each time; a weight is beyond the largest fp16 number.
        UsageError: unknown ``values``, ``tune`` or choices, or the model cannot run the example.

    >>> import isogrid
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    >>> _ = isogrid.prune(model, isogrid.OneShot(sparsity=0.9))
    >>> fast = compile(model, torch.randn(4, 64))
    >>> with torch.no_grad():
    ...     x = torch.randn(9, 64)
    ...     torch.allclose(fast(x), model(x), atol=1e-5)
    True
    """
    _check(model, values, tune)
    args = positional("compile", example, hint=", and the inputs by keyword as kwargs=")
    keywords = dict(kwargs or {})
    told = _read_choices(choices)
    try:
        with torch.no_grad():
            wanted = _run(model, args, keywords)
    except Exception as problem:
        raise UsageError(f"The model does not run on the example: {first_line(problem)}.") from problem
    decide = by_cost(told) if tune == "model" else Stopwatch(values, told)
    plain = wanted
    if any(isinstance(module, nn.TransformerEncoder) for module in model.modules()):
        with _plainly():
            plain = _run(model, args, keywords)
    compiled = _compile(model, args, keywords, plain, dynamic_shapes, values, decide, told)
    _check_names(told, model, compiled)
    if not isinstance(compiled.body, _Dense) and _distance(plain, wanted) > _TOLERANCE:
        compiled.notes.append(
            "PyTorch's fused encoder sets what is masked to zero; the compiled model gives there what the encoder's "
            "own layers give."
        )
    if tune == "model":
        return compiled
    dense, sparse = seconds_of([lambda: _run(model, args, keywords), lambda: _run(compiled, args, keywords)])
    if sparse < dense:
        compiled.notes.append(f"Measured on the example: {dense / sparse:.2f} times as fast as the dense model.")
        return compiled
    found = [replace(choice, choice="dense", fused="", reason="the whole was slower") for choice in compiled.choices]
    note = f"The compiled model was {sparse / dense:.2f} times as slow as the dense one, which runs instead."
    return Compiled(_Dense(copy.deepcopy(model)), found, [note])


def _compile(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: Any, dynamic_shapes: Any, values: Values,
    decide: Any, told: Mapping[str, str] | None,
) -> Compiled:  # fmt: skip
    # Sums are taken in another order.  Rounded weights may go far: then it only tells a wrong model from a right one.
    tolerance = _TOLERANCE if values == "fp32" else 1.0
    notes: list[str] = []
    for share in (True, False):
        try:
            traced = trace(model, args, kwargs, dynamic_shapes)
        except Exception as problem:  # whatever torch.export makes of it
            notes = [f"The model could not be traced, so its layers were replaced one by one: {first_line(problem)}."]
            break
        scale = _scale(traced, args, kwargs)
        found = rewrite(traced.graph, decide, values, scale=scale, share=share, told=told)
        if not any(choice.choice == "sparse" for choice in found):
            return Compiled(
                _Dense(copy.deepcopy(model)),
                found,
                ["No layer has enough zeros to gain from; the model runs as it is."],
            )
        unseen = _may_read_beyond(traced.graph)
        compiled = Compiled(Body(traced.graph), found, notes, traced)
        object.__setattr__(compiled, "_original", model)
        difference = _difference(compiled, args, kwargs, wanted)
        if difference <= tolerance:
            _exclude_small_sizes(compiled, args, kwargs, tolerance, unseen)
            return compiled
        notes = ["Products of the same input are computed one by one, since together they gave other results."]
    else:
        notes = ["The traced model gave other results than the original, so its layers were replaced one by one."]
    body, found = swap(model, decide, values, args, kwargs)
    compiled = Compiled(body, found, notes)
    if _difference(compiled, args, kwargs, wanted) > tolerance:
        with _plainly():
            if _difference(model, args, kwargs, wanted) > tolerance:
                raise UnsupportedError(
                    "compile got a model that answers differently each time (random numbers, or state that it "
                    "changes); accepted is one that gives the same answer to the same inputs."
                )
        raise UnsupportedError("The compiled model gives other results than the original; please report this model.")
    return compiled


_TOLERANCE = 1e-3
"""As a share of the largest value."""


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """How an original is run to be compared with: as it was traced."""
    with torch.no_grad(), plain_attention():
        yield


class _Dense(nn.Module):
    """A model as it is, in the place of a compiled body."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)


def _check(model: nn.Module, values: str, tune: str) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"compile got {type(model).__name__}; accepted is a torch.nn.Module.")
    if isinstance(model, Compiled):
        raise UnsupportedError("compile got a model that is compiled already; accepted is the original.")
    if values not in VALUES:
        raise unknown_name("values", values, VALUES)
    if tune not in ("model", "measure"):
        raise unknown_name("tune", tune, ("model", "measure"))
    if any(module.training for module in model.modules()):
        raise UnsupportedError("compile got a model in training mode; accepted is one in eval mode: call model.eval().")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            raise UnsupportedError(
                f"compile got {name} of {tensor.dtype} on {tensor.device}; accepted are float32 models on the CPU."
            )


def _read_choices(choices: Any) -> Mapping[str, str] | None:
    told = choices
    if isinstance(choices, (str, os.PathLike)):
        try:
            told = json.loads(Path(choices).read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise UsageError(f"The choices in {os.fspath(choices)} cannot be read: {first_line(problem)}.") from None
    if told is not None and (
        not isinstance(told, Mapping) or any(choice not in ("sparse", "dense") for choice in told.values())
    ):
        raise UsageError("The choices are not understood; accepted is 'sparse' or 'dense' for each layer by name.")
    return told


def _check_names(told: Mapping[str, str] | None, model: nn.Module, compiled: Compiled) -> None:
    # Known are parameters too: which of them become products depends on how the model could be traced.
    names = [choice.name for choice in compiled.choices]
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)} | set(names)
    for name in told or ():
        if name not in known:
            raise unknown_name("layer", name, names)


def _scale(traced: Traced, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """The example's elements over those that the graph was traced with."""
    placeholders = [node for node in traced.graph.graph.nodes if node.op == "placeholder"]
    for node, leaf in zip(placeholders, pytree.tree_leaves((args, dict(kwargs))), strict=True):
        value = node.meta.get("val")
        if isinstance(leaf, Tensor) and isinstance(value, Tensor) and 1 in leaf.shape:
            sizes = [size if isinstance(size, int) else size.node.hint for size in value.shape]
            return leaf.numel() / max(1, math.prod(int(size or 1) for size in sizes))
    return 1.0


def _difference(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], wanted: Any) -> float:
    """How far the answer is from the one wanted; infinite if there is none."""
    try:
        with torch.no_grad():
            got = _run(model, args, kwargs)
    except Exception:  # a graph that does not run is as wrong as one that answers wrongly
        return float("inf")
    return _distance(got, wanted)


def _distance(got: Any, wanted: Any) -> float:
    """The largest difference as a share of the largest value; infinite if the structures differ."""
    worst = 0.0
    leaves = pytree.tree_leaves(got), pytree.tree_leaves(wanted)
    if len(leaves[0]) != len(leaves[1]):
        return float("inf")
    for a, b in zip(*leaves, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape:
            ours, right = a.double(), b.double()
            other = (ours != right) & ~(ours.isnan() & right.isnan())  # infinities, of a mask say, are equal too
            if bool(other.any()):
                finite = right[right.isfinite()].abs()
                size = max(float(finite.max()) if finite.numel() else 0.0, 1e-30)
                difference = float((ours - right)[other].abs().max()) / size
                worst = max(worst, float("inf") if math.isnan(difference) else difference)
        elif isinstance(a, Tensor) or isinstance(b, Tensor) or a != b:
            return float("inf")
    return worst


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A call with copies of the inputs, which the model may change."""
    args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, (args, dict(kwargs)))
    return model(*args, **kwargs)


# Operators that trust the numbers in one input to lie within another, and read beyond it where they do not.
_TRUSTING = {
    "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only", "segment_reduce", "ctc_loss", "_ctc_loss",
    "_jagged_to_padded_dense_forward", "_padded_dense_to_jagged_forward",
}  # fmt: skip


def _may_read_beyond(graph: fx.GraphModule) -> bool:
    """Whether inputs that do not fit each other might end the process; of operators not PyTorch's nothing is known."""
    for node in graph.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target.namespace == "aten":
            if node.target._opname in _TRUSTING:
                return True
        elif node.target.namespace not in ("prims", "isogrid") and len(node.all_input_nodes) > 1:
            return True
    return False


def _exclude_small_sizes(
    compiled: Compiled, args: tuple[Any, ...], kwargs: Mapping[str, Any], tolerance: float, unseen: bool
) -> None:
    """Try 1 and 0 for each size that may vary, as the tracer takes it to be neither, and note where that is wrong.

    An output may differ by ``tolerance`` of its largest value from the original's.  ``unseen`` excludes all of them.
    """
    plan = compiled._inputs
    assert plan is not None
    flat = plan.flatten(args, kwargs)
    if flat is None:
        return
    _, spec = pytree.tree_flatten((args, dict(kwargs)))
    numbers: dict[str, int] = {}
    for wanted, leaf in zip(plan.leaves, flat, strict=True):
        if isinstance(wanted, TensorPlan):
            wanted.fits(leaf, numbers)

    def small(names: set[str], size: int) -> bool | None:
        """Whether the graph is right where these sizes are small; None where the original does not run."""
        inputs, keywords = pytree.tree_unflatten(_cut(plan, flat, names, size), spec)
        try:
            with _plainly():
                answer = _run(compiled.__dict__["_original"], inputs, keywords)
        except Exception:  # then the user is to see what the original says
            return None
        return _difference(compiled, inputs, keywords, answer) <= tolerance

    lost: set[int] = set()
    for name, number in sorted(numbers.items()):
        same = {other for other, its in numbers.items() if its == number}
        for size in (1, 0):
            if size == number:  # the example, on which it is right
                continue
            alone = False if unseen else small({name}, size)
            if alone:
                continue
            together = alone if unseen or len(same) == 1 else small(same, size)
            if together:
                plan.mixed[name, size] = same - {name}
                continue
            plan.excluded.add((name, size))
            if size == 1 and (alone is False or together is False):
                lost.add(number)
    plan.forget()
    if lost:
        why = "it was not tried, as an operator might read beyond its inputs" if unseen else "the graph is wrong there"
        where = " or ".join(map(str, sorted(lost)))
        compiled.notes.append(f"Inputs with a size of 1 where the example has {where} go to the original, since {why}.")


def _cut(plan: InputPlan, flat: list[Any], names: set[str], size: int) -> list[Any]:
    """The leaves with no more than ``size`` along the axes of these names."""
    return [
        leaf[tuple(slice(size) if axis in names else slice(None) for axis in wanted.sizes)]
        if isinstance(wanted, TensorPlan)
        else leaf
        for wanted, leaf in zip(plan.leaves, flat, strict=True)
    ]


def _shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    return ", ".join(str(tuple(leaf.shape)) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves)
