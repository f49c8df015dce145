"""Sparse PyTorch models as ONNX files that stock ONNX Runtime loads, and the proof that it computes the same."""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isogrid import _native
from isogrid.errors import FormatError, MissingDependencyError, UnsupportedError, UsageError, first_line
from isogrid.evaluating import positional
from isogrid.formats.files import write_atomically
from isogrid.formats.numbers import Values
from isogrid.formats.onnx_weights import Source, require_onnx, shrink_weights
from isogrid.formats.weights import Selection, rounded_weights, unwrapped, weight_targets
from isogrid.masks import count_zeros
from isogrid.names import unknown_name

FreeAxes = Mapping[str, Mapping[int, str]]
"""Axes whose size a file leaves open, by input: ``{"ids": {1: "length"}}`` calls axis 1 of the input ids *length*."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# A protocol buffer, and so an ONNX file without external data, ends there.
_LARGEST_FILE = 2**31 - 1

# Nodes that only move numbers about.  They are evaluated at export whatever the size, so that each weight stands right
# before the layer that uses it, where ONNX Runtime and `isogrid pack` look for it.
_MOVES = frozenset({"Transpose", "Reshape", "Slice", "Concat", "Squeeze", "Unsqueeze", "Split", "Identity"})


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example: Tensor | Sequence[Any],
    *,
    values: Values = "fp32",
    targets: Selection = None,
    ignore: Selection = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    free_axes: FreeAxes | None = None,
    opset: int | None = None,
) -> int:
    """Write `model`, in evaluation mode, as an ONNX file with sparse weights; give the number of bytes.

    `isogrid.export` is this one with a packed form beside it, and says what the arguments are.

    Raises:
        UsageError: an unknown number format, an example that the model does not run on, no batch axis to leave free, or
            free axes that the example does not have.
        UnsupportedError: PyTorch cannot export the model, or not to this operator set, or the file would pass 2 GB; a
            weight cannot be rounded.
        TrainingError: a weight that is to be rounded is not finite.
        MissingDependencyError: onnx or onnxscript is not installed.
        RunError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = export(nn.Linear(3, 2), folder + "/linear.onnx", torch.zeros(1, 3))
    ...     size == os.path.getsize(folder + "/linear.onnx")
    True
    """
    onnx = require_onnx()
    arguments = positional("export", example)
    plain = copy.deepcopy(unwrapped(model)).cpu().eval()
    _check_layers(plain)
    rounded = rounded_weights(weight_targets(plain, targets, ignore, embeddings=True), values)
    with torch.no_grad():
        for weight in rounded:
            weight.target.parameter.copy_(torch.from_numpy(weight.array))
    counts = count_zeros(plain, weight_targets(plain, targets, ignore))

    proto = _trace(plain, arguments, input_names, output_names, dynamic_batch, free_axes or {}, opset)
    sources = {weight.target.name: Source(weight.array, weight.target.output_axis) for weight in rounded}
    shrink_weights(proto, values, sources)
    notes = {
        "isogrid.version": _native.version,
        "isogrid.values": values,
        "isogrid.sparsity": repr(counts["sparsity"]),
        "isogrid.sparsity_of_model": repr(counts["sparsity_of_model"]),
    }
    onnx.helper.set_model_props(proto, notes)
    if proto.ByteSize() > _LARGEST_FILE:
        raise UnsupportedError(f"The ONNX file would have {proto.ByteSize()} bytes; a file may have 2 GB at most.")
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    write_atomically(path, data)
    return len(data)


def verify(
    path: str | os.PathLike[str], model: nn.Module, example: Tensor | Sequence[Any], *, tolerance: float = 1e-4
) -> float:
    """Run an ONNX file in ONNX Runtime and compare with `model`, which must hold the same (rounded) weights.

    Two batch sizes are tried where the file leaves the batch free, else that of `example`; where it leaves further axes
    free, these are tried one shorter too.

    Args:
        path: the file that `export` wrote.
        model: compared in evaluation mode, and left as it is.
        example: as in `export`.
        tolerance: largest accepted difference, as a fraction of the largest output.

    Returns:
        The largest difference found, as a fraction of the largest output.

    Raises:
        FormatError: ONNX Runtime refuses the file, gives other outputs, or differs by more than `tolerance`.
        MissingDependencyError: onnxruntime is not installed.
    """
    session = _session(path)
    arguments = positional("export", example)
    plain = copy.deepcopy(unwrapped(model)).cpu().eval()
    free = all(isinstance(entry.shape[0], str) for entry in session.get_inputs() if entry.shape)
    batch = _batch(arguments)
    trials = [_resized(arguments, size) for size in (batch, batch + 1)] if free and batch else [arguments]
    if any(_further_free(session)):
        trials.append(_shortened(arguments, _further_free(session)))
    worst = 0.0
    for inputs in trials:
        with torch.no_grad():
            expected = [output.numpy() for output in _tensors(plain(*inputs))]
        feeds = {entry.name: value.numpy() for entry, value in zip(session.get_inputs(), _tensors(inputs), strict=True)}
        try:
            found = session.run(None, feeds)
        except Exception as problem:
            raise FormatError(f"ONNX Runtime cannot run {os.fspath(path)}: {first_line(problem)}.") from None
        worst = max(worst, _difference(path, found, expected))
    if worst > tolerance:
        raise FormatError(
            f"{os.fspath(path)} differs from the model by {worst:.2g} of the largest output; at most "
            f"{tolerance:g} is accepted."
        )
    return worst


def _trace(
    model: nn.Module,
    arguments: tuple[Any, ...],
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    dynamic_batch: bool,
    free_axes: FreeAxes,
    opset: int | None,
) -> Any:
    """The graph of `model` as an ``onnx.ModelProto``, tidied, with nothing in it that depends on this machine."""
    try:
        from onnxscript.optimizer import optimize_ir
    except ImportError:
        raise MissingDependencyError("ONNX export needs onnxscript; run: pip install 'isogrid[onnx]'.") from None
    from onnx_ir.passes import common

    given = arguments
    if dynamic_batch:
        batch = _batch(arguments)
        if batch is None:
            raise UsageError("dynamic_batch needs inputs that share one size on axis 0; pass dynamic_batch=False.")
        if not batch:
            raise UsageError("The example has no samples, its axis 0 having size 0; needed is 1 or more.")
        # The tracer takes a size of 1 for a constant.
        arguments = _resized(arguments, max(batch, 2))
    shapes = _free_shapes(model, arguments, free_axes, dynamic_batch=dynamic_batch, input_names=input_names)
    _try_out(model, given)
    with _silence():
        try:
            program = torch.onnx.export(
                model,
                arguments,
                dynamo=True,
                verbose=False,
                optimize=False,
                dynamic_shapes=shapes,
                input_names=input_names,
                output_names=output_names,
                opset_version=opset,
            )
            assert program is not None
            # Applied twice in one graph, a weight is moved about twice: once is enough.
            common.CommonSubexpressionEliminationPass()(program.model)
            optimize_ir(program.model, should_fold=_should_fold)
            common.ClearMetadataAndDocStringPass()(program.model)
            proto = program.model_proto
        except Exception as problem:
            hint = " (if its batch size is fixed: dynamic_batch=False)" if dynamic_batch else ""
            if free_axes:
                hint = " with these axes free"
            raise UnsupportedError(
                f"PyTorch cannot export this {type(model).__name__} to ONNX{hint}: {_root(problem)}."
            ) from problem
    found = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is not None and found != opset:
        raise UnsupportedError(
            f"opset got {opset}, and PyTorch's exporter wrote {found} for this {type(model).__name__}; accepted are "
            "the operator sets that it can write (without opset: its own choice)."
        )
    del proto.graph.value_info[:]
    return proto


def _check_layers(model: nn.Module) -> None:
    """Refuse layers for which ONNX has no operator, and the exporter writes one that does something else."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LSTM) and module.proj_size:
            raise UnsupportedError(
                f"{name or 'The model'} is an LSTM with proj_size={module.proj_size}, which ONNX has no operator for; "
                "accepted are those without."
            )


def _try_out(model: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Run copies once, so that what is wrong with the example is said by the model and not by the tracer."""
    inputs = _mapped(arguments, lambda item: item.clone() if isinstance(item, Tensor) else item)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(model)(*inputs)
    except Exception as problem:
        raise UsageError(f"The model does not run on the example: {first_line(problem)}.") from problem


def _root(problem: BaseException) -> str:
    """What was wrong in the first place, in one line: the exporter wraps it in advice for its own developers."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    return _COLOURS.sub("", first_line(problem))


def _should_fold(node: Any) -> bool | None:
    """True for nodes that move weights; False where that would store a shared weight twice; None for the default."""
    weights = [value for value in node.inputs if _is_weight(value)]
    if not weights:
        return None
    if node.op_type not in _MOVES:
        return None
    uses = [use.node for value in weights for use in value.uses()]
    return all(user.op_type in _MOVES and all(map(_is_constant, user.inputs)) for user in uses)


def _is_constant(value: Any) -> bool:
    return value is None or value.const_value is not None


def _is_weight(value: Any) -> bool:
    return value is not None and value.const_value is not None and value.const_value.dtype.is_floating_point()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporter says about itself from the user: nobody could act on it."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _session(path: str | os.PathLike[str]) -> Any:
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        raise MissingDependencyError(
            "Running ONNX files needs onnxruntime; run: pip install 'isogrid[onnx]'."
        ) from None
    if not Path(path).is_file():
        raise UsageError(f"{os.fspath(path)} is not a file; an .onnx file is needed.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        raise FormatError(f"ONNX Runtime cannot load {os.fspath(path)}: {first_line(problem)}.") from None


def _further_free(session: Any) -> list[list[int]]:
    """Of each input the axes beside the batch that the file leaves free."""
    return [
        [axis for axis, size in enumerate(entry.shape) if axis > 0 and not isinstance(size, int)]
        for entry in session.get_inputs()
    ]


def _shortened(arguments: tuple[Any, ...], axes: Sequence[Sequence[int]]) -> tuple[Any, ...]:
    """The arguments with one place less on the axes named for each tensor."""
    listed = iter(axes)

    def shorten(item: Any) -> Any:
        for axis in next(listed, ()) if isinstance(item, Tensor) else ():
            item = item.narrow(axis, 0, max(1, item.shape[axis] - 1))
        return item

    shortened: tuple[Any, ...] = _mapped(arguments, shorten)
    return shortened


def _difference(path: str | os.PathLike[str], found: list[NDArray[Any]], expected: list[NDArray[Any]]) -> float:
    """The largest difference as a fraction of the largest output; infinite where one side alone is not finite."""
    if [output.shape for output in found] != [output.shape for output in expected]:
        raise FormatError(
            f"{os.fspath(path)} gives outputs of shapes {[o.shape for o in found]}, "
            f"and the model {[o.shape for o in expected]}."
        )
    worst = 0.0
    for got, wanted in zip(found, expected, strict=True):
        left, right = got.astype(np.float64), wanted.astype(np.float64)
        finite = np.isfinite(right)
        if not np.array_equal(left[~finite], right[~finite], equal_nan=True) or not np.all(np.isfinite(left[finite])):
            return math.inf
        if np.any(finite):
            largest = float(np.max(np.abs(right[finite])))
            difference = float(np.max(np.abs(left[finite] - right[finite])))
            worst = max(worst, difference / (largest or 1.0))
    return worst


def _tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested sequences and mappings, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return [tensor for item in tree for tensor in _tensors(item)]
    return []


def _mapped(tree: Any, change: Any) -> Any:
    """`tree` with every tensor replaced by ``change(tensor)`` and everything else by None where `change` says so."""
    if isinstance(tree, Mapping):
        return {key: _mapped(item, change) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [_mapped(item, change) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return change(tree)


def _batch(arguments: tuple[Any, ...]) -> int | None:
    """The size on axis 0 that all tensors share, or None."""
    sizes = {tensor.shape[0] if tensor.dim() else None for tensor in _tensors(arguments)}
    return sizes.pop() if len(sizes) == 1 else None


def _resized(arguments: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    """The arguments with `size` samples: those there are, over and over."""

    def repeat(item: Any) -> Any:
        return item[torch.arange(size) % len(item)] if isinstance(item, Tensor) else item

    resized: tuple[Any, ...] = _mapped(arguments, repeat)
    return resized


def _free_shapes(
    model: nn.Module,
    arguments: tuple[Any, ...],
    free_axes: FreeAxes,
    *,
    dynamic_batch: bool,
    input_names: Sequence[str] | None,
) -> Any:
    """Which axes are free, in the form that PyTorch's exporter takes; None where every size is fixed.

    The batch is one size for all.  Of a further axis the tracer finds out itself which sizes it may have: a table of
    positions, say, allows for so many.
    """
    batch = torch.export.Dim("batch") if dynamic_batch else None
    shapes = _mapped(arguments, lambda item: {0: batch} if batch is not None and isinstance(item, Tensor) else None)
    if not free_axes:
        return None if batch is None else shapes
    listed = list(shapes)
    known = _argument_names(model, len(arguments), input_names)
    for name, axes in free_axes.items():
        if name not in known:
            raise unknown_name("input", name, known)
        place = known.index(name)
        tensor = arguments[place]
        if not isinstance(tensor, Tensor):
            raise UsageError(f"free_axes names the input {name}, a {type(tensor).__name__}; accepted are tensors.")
        for axis in axes:
            _check_free_axis(name, axis, tensor, dynamic_batch=dynamic_batch)
        listed[place] = {**(shapes[place] or {}), **axes}
    return tuple(listed)


def _argument_names(model: nn.Module, count: int, input_names: Sequence[str] | None) -> list[str]:
    """What the positional arguments are called: as `input_names` says, else as ``forward`` does."""
    if input_names is not None and len(input_names) == count:
        return list(input_names)
    positional = [
        parameter.name
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return positional[:count]


def _check_free_axis(name: str, axis: int, tensor: Tensor, *, dynamic_batch: bool) -> None:
    least = 1 if dynamic_batch else 0
    if isinstance(axis, bool) or not isinstance(axis, int) or not least <= axis < tensor.dim():
        said = " (axis 0 is the batch)" if dynamic_batch else ""
        raise UsageError(
            f"free_axes names axis {axis!r} of {name}, whose shape is {tuple(tensor.shape)}; accepted are whole "
            f"numbers from {least} to {tensor.dim() - 1}{said}."
        )
    if tensor.shape[axis] < 2:
        raise UsageError(
            f"free_axes names axis {axis} of {name}, which has size {tensor.shape[axis]} in the example; needed is 2 "
            "or more, as the tracer takes 1 for a constant."
        )
