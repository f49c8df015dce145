"""Inputs to try a model on: of assumed sizes, or real ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from isogrid.errors import UsageError, first_line
from isogrid.names import unknown_name
from isogrid.runtime.packing.constants import Constants
from isogrid.runtime.packing.layer import Shape
from isogrid.runtime.packing.running import Run, open_model

Feeds = dict[str, NDArray[Any]]

_ASSUMED_LENGTH = 128
_ASSUMED_IMAGE = 224
# Through these a number passes on its way from an input to the table that it is looked up in.
_CARRIERS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten"})


@dataclass(frozen=True)
class Input:
    """An input of the model.

    Attributes:
        name, dtype: of it.
        dims: sizes, names of sizes that may vary, or None for a size without a name; None where even their number is
            not known.
        below: whole numbers are drawn from 0 up to this.
    """

    name: str
    dtype: ir.DataType
    dims: tuple[int | str | None, ...] | None
    below: int


class Examples:
    """Draws inputs for a model.

    Args:
        model: its graph.
        constants: of it.
        batch: size of each first axis that may vary.
        shapes: whole shapes by name.

    Raises:
        UsageError: a shape for no input, or one that the model does not allow.
    """

    def __init__(
        self, model: ir.Model, constants: Constants, batch: int = 1, shapes: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.inputs = [_input(value, constants) for value in model.graph.inputs if not value.is_initializer()]
        self._shapes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
        self._batch = batch
        self._symbols: dict[str, int] = {}
        for name, shape in self._shapes.items():
            self._learn(name, shape)

    def _learn(self, name: str, shape: Shape) -> None:
        known = {entry.name: entry for entry in self.inputs}
        if name not in known:
            raise unknown_name("input", name, known)
        dims = known[name].dims
        if dims is None:
            return
        fits = len(dims) == len(shape) and all(
            not isinstance(dim, int) or dim == size for dim, size in zip(dims, shape, strict=True)
        )
        if not fits:
            raise UsageError(f"The input {name} has the shape {_text(dims)}, which {_text(shape)} does not fit.")
        for dim, size in zip(dims, shape, strict=True):
            if isinstance(dim, str) and self._symbols.setdefault(dim, size) != size:
                raise UsageError(f"The shapes give two sizes for {dim}: {self._symbols[dim]} and {size}.")

    @property
    def batches(self) -> bool:
        """Whether the size of the batch may vary."""
        return any(self._is_batch(axis, dim) for entry in self.inputs for axis, dim in enumerate(entry.dims or ()))

    def draw(self, seed: int = 0, more: int = 0) -> Feeds:
        """Random inputs; the batch, where it may vary, has `more` samples more than is assumed."""
        rng = np.random.default_rng(seed)
        return {entry.name: _random(rng, entry, self._shape(entry, more)) for entry in self.inputs}

    def _is_batch(self, axis: int, dim: int | str | None) -> bool:
        """Whether a size that may vary is that of the batch: as its name says, else where any first axis has it."""
        if isinstance(dim, int):
            return False
        named = {other for entry in self.inputs for other in entry.dims or () if "batch" in str(other).lower()}
        firsts = {entry.dims[0] for entry in self.inputs if entry.dims}
        return dim in named if named else axis == 0 or (dim is not None and dim in firsts)

    def _shape(self, entry: Input, more: int) -> Shape:
        if entry.dims is None:
            return self._shapes.get(entry.name, ())
        shape = []
        for axis, dim in enumerate(entry.dims):
            if isinstance(dim, int):
                shape.append(dim)
                continue
            given = self._shapes.get(entry.name)
            size = given[axis] if given is not None else self._symbols.get(dim) if dim is not None else None
            if self._is_batch(axis, dim):
                shape.append((self._batch if size is None else size) + more)
            elif size is not None:
                shape.append(size)
            else:
                shape.append(_ASSUMED_IMAGE if len(entry.dims) == 4 else _ASSUMED_LENGTH)
        return tuple(shape)


def read_inputs(path: str | os.PathLike[str], inputs: Sequence[Input]) -> Feeds:
    """Real inputs from an ``.npz`` file, an array for each input by name.

    Raises:
        UsageError: no such file, or other names than those of the inputs.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except Exception as problem:
        raise UsageError(f"{os.fspath(path)} cannot be read as .npz: {first_line(problem)}.") from None
    names = [entry.name for entry in inputs]
    if sorted(found) != sorted(names):
        raise UsageError(
            f"{os.fspath(path)} has the arrays {', '.join(sorted(found)) or 'none'}; needed are {', '.join(names)}."
        )
    return found


def run_original(run: Run, feeds: Feeds, *, given: bool) -> list[Any]:
    """What the original model answers.

    Raises:
        UsageError: it cannot be run on these inputs.
    """
    try:
        return run(feeds)
    except Exception as problem:
        shapes = ", ".join(f"{name} {_text(array.shape)}" for name, array in feeds.items())
        hint = "" if given else "; name other sizes (--shape NAME=1x3x32x32) or give real inputs (--inputs FILE.npz)"
        raise UsageError(f"ONNX Runtime cannot run the model on {shapes}: {first_line(problem)}{hint}.") from None


def measure_shapes(model: bytes | str, values: Sequence[str], feeds: Feeds) -> dict[str, Shape]:
    """The shapes that values of a model have when it runs; `model` has them among its outputs."""
    session = open_model(model)
    names = [output.name for output in session.get_outputs()]
    wanted = [name for name in names if name in set(values)]
    return {name: np.shape(found) for name, found in zip(wanted, session.run(wanted, feeds), strict=True)}


def _input(value: ir.Value, constants: Constants) -> Input:
    dims = None
    if value.shape is not None:
        dims = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape.dims)
    return Input(value.name or "", value.dtype or ir.DataType.FLOAT, dims, _below(value, constants))


def _below(value: ir.Value, constants: Constants) -> int:
    """The rows of the table that an input's numbers are looked up in; 2 where there is none, which suits masks."""
    waiting, seen, rows = [value], {id(value)}, []
    while waiting:
        for node, index in waiting.pop().uses():
            if node.op_type == "Gather" and index == 1:
                table = constants.array(node.inputs[0])
                axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
                if table is not None and table.ndim:
                    rows.append(table.shape[axis])
            elif _carries(node, index) and id(node.outputs[0]) not in seen:
                seen.add(id(node.outputs[0]))
                waiting.append(node.outputs[0])
    return min(rows, default=2)


def _carries(node: ir.Node, index: int) -> bool:
    """Whether a number that is looked up leaves the node as it came, for some inputs at least.

    Keras counts negative ones from the end: Where(x < 0, x + rows, x), or the sum of both, each times a mask.
    """
    if node.op_type == "Where":
        return index > 0
    if node.op_type == "Mul":
        return _is_mask(node.inputs[1 - index])
    if node.op_type == "Add":
        terms = [value.producer() if value is not None else None for value in node.inputs]
        return all(term is not None and term.op_type == "Mul" and any(map(_is_mask, term.inputs)) for term in terms)
    return node.op_type in _CARRIERS and index == 0


def _is_mask(value: ir.Value | None) -> bool:
    cast = value.producer() if value is not None else None
    given = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return given is not None and given.dtype == ir.DataType.BOOL


def _random(rng: np.random.Generator, entry: Input, shape: Shape) -> NDArray[Any]:
    if entry.dtype == ir.DataType.STRING:
        raise UsageError(f"The input {entry.name} is text; give real inputs (--inputs FILE.npz).")
    dtype = entry.dtype.numpy()
    if entry.dtype == ir.DataType.BOOL:
        return np.asarray(rng.random(shape) < 0.5)
    if dtype.kind in "iu":
        return np.asarray(rng.integers(0, entry.below, shape), dtype)
    return np.asarray(rng.standard_normal(shape), dtype)


def _text(dims: Sequence[Any]) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in dims) or "scalar"


def with_outputs(proto: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """A copy that also gives the `values`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {output.name for output in copy.graph.output}
    for name in values:
        if name not in known:
            copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return copy
