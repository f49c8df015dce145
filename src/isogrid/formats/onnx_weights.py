"""Weights inside ONNX graphs: the smallest encoding that stock ONNX Runtime accepts, and reading them back.

A weight (a float32 initializer of two axes or more) keeps its name and its consumers; what changes is where it comes
from.  Per weight the fewest bytes win:

* ``fp32``: an initializer, or a ``sparse_initializer`` of float32 values and linear int64 positions (see `_positions`);
* ``fp16``: the same with float16 values, then ``Cast`` to float32;
* ``int8``: the same with int8 codes, then ``Cast`` and ``Mul`` by one float32 scale per slice of the output axis.

ONNX Runtime turns sparse initializers into dense ones and evaluates ``Cast`` and ``Mul`` once, when it loads the model,
so that running costs the same for all encodings.  ``DequantizeLinear`` would say the same as Cast and Mul in one node,
but ONNX Runtime then computes ``MatMul`` from 8-bit *activations* (it fuses the pair into ``MatMulNBits`` with
accuracy level 4), which was measured to be off by 0.5 % of the largest output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import MissingDependencyError
from isogrid.formats.numbers import Values

# Folding a batch norm into a convolution rounds each weight once more: half a unit in the last place, 2**-24.
_SAME = 2.0**-22
_TOP = 127


def require_onnx() -> Any:
    """The ``onnx`` module.

    Raises:
        MissingDependencyError: it is not installed.

    >>> require_onnx().__name__
    'onnx'
    """
    try:
        import onnx
    except ImportError:
        raise MissingDependencyError("ONNX files need the onnx package; run: pip install 'isogrid[onnx]'.") from None
    return onnx


@dataclass(frozen=True, eq=False)
class Source:
    """A weight of the PyTorch model, as it was before the exporter touched it: float32 array and output axis."""

    array: NDArray[np.float32]
    axis: int


@dataclass(frozen=True)
class _Encoding:
    """Protocol buffers that together stand for one weight."""

    dense: tuple[Any, ...] = ()
    sparse: tuple[Any, ...] = ()
    nodes: tuple[Any, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(part.ByteSize() for part in (*self.dense, *self.sparse, *self.nodes))


def shrink_weights(model: Any, values: Values, sources: Mapping[str, Source]) -> None:
    """Give every weight of the ``onnx.ModelProto`` `model`, in place, its smallest encoding without loss.

    With ``"fp16"`` and ``"int8"`` a weight that is not on such a grid stays float32.  `sources` maps initializer names
    to original weights: by them a half precision weight is recognised that a batch norm was folded into.

    Raises:
        MissingDependencyError: onnx is not installed.
    """
    onnx = require_onnx()
    graph = model.graph
    fixed = {value.name for value in graph.output}
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    dense: list[Any] = []
    sparse: list[Any] = []
    nodes: list[Any] = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2 or tensor.name in fixed:
            dense.append(tensor)
            continue
        array = onnx.numpy_helper.to_array(tensor) + np.float32(0)  # makes 0.0 of -0.0
        writer = _Writer(onnx, tensor.name, taken)
        best = min(writer.encodings(array, values, sources.get(tensor.name)), key=lambda encoding: encoding.bytes)
        taken |= {name for node in best.nodes for name in (*node.input, *node.output)}
        dense += best.dense
        sparse += best.sparse
        nodes += best.nodes
    nodes += graph.node
    for part, content in ((graph.initializer, dense), (graph.sparse_initializer, sparse), (graph.node, nodes)):
        del part[:]
        part.extend(content)


class _Writer:
    """The possible encodings of one weight."""

    def __init__(self, onnx: Any, name: str, taken: set[str]) -> None:
        self._onnx = onnx
        self._name = name
        self._taken = taken

    def encodings(self, array: NDArray[np.float32], values: Values, source: Source | None) -> Iterator[_Encoding]:
        yield from self._stored(self._name, array)
        found: tuple[NDArray[Any], NDArray[np.float32]] | None = None
        if values == "int8":
            found = _on_grid(array)
        elif values == "fp16":
            found = _on_halves(array, source)
        if found is not None:
            yield from self._scaled(*found)

    def _stored(self, name: str, array: NDArray[Any]) -> Iterator[_Encoding]:
        helper = self._onnx.numpy_helper
        yield _Encoding(dense=(helper.from_array(array, name),))
        flat = array.reshape(-1)
        positions = np.flatnonzero(flat).astype(np.int64)
        sparse = self._onnx.helper.make_sparse_tensor(
            helper.from_array(flat[positions], name), self._positions(positions), list(array.shape)
        )
        yield _Encoding(sparse=(sparse,))

    def _positions(self, positions: NDArray[np.int64]) -> Any:
        """Linear positions as numbers of variable length, three bytes for those up to two million, instead of eight.

        Only int64 is in the standard, but its ``int64_data`` field takes fewer bytes than ``raw_data``, and ONNX
        Runtime reads both.
        """
        make = self._onnx.helper.make_tensor
        return make("", self._onnx.TensorProto.INT64, positions.shape, positions.tolist())

    def _scaled(self, codes: NDArray[Any], scale: NDArray[np.float32]) -> Iterator[_Encoding]:
        """`codes` cast to float32 and, unless all scales are 1, multiplied by `scale` (of broadcastable shape)."""
        make = self._onnx.helper.make_node
        code_name = self._free(f"{self._name}.{codes.dtype}")
        unscaled = bool(np.all(scale == 1))
        cast_name = self._name if unscaled else self._free(f"{self._name}.unscaled")
        nodes = [make("Cast", [code_name], [cast_name], to=self._onnx.TensorProto.FLOAT)]
        extra = []
        if not unscaled:
            scale_name = self._free(f"{self._name}.scale")
            extra = [self._onnx.numpy_helper.from_array(scale, scale_name)]
            nodes.append(make("Mul", [cast_name, scale_name], [self._name]))
        for stored in self._stored(code_name, codes):
            yield _Encoding((*stored.dense, *extra), stored.sparse, tuple(nodes))

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        return name


def _on_grid(array: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """int8 codes and scales whose product is `array`, if along one axis every slice has such a scale.

    No record of where the array comes from is needed: the largest weight of a slice has code 127 by the int8 rule, and
    neither transposing, cutting and joining nor folding a batch norm in changes that.
    """
    for axis in range(array.ndim):
        others = tuple(a for a in range(array.ndim) if a != axis)
        peak = np.max(np.abs(array), axis=others, keepdims=True, initial=0).astype(np.float64)
        scale = np.where(peak > 0, peak / _TOP, 1).astype(np.float32)
        codes = np.rint(array / scale)
        if _equal(codes * scale, array):
            return codes.astype(np.int8), scale
    return None


def _on_halves(
    array: NDArray[np.float32], source: Source | None
) -> tuple[NDArray[np.float16], NDArray[np.float32]] | None:
    """float16 codes and scales whose product is `array`: the scales are 1, or what was folded into `source`."""
    with np.errstate(over="ignore"):
        codes = array.astype(np.float16)
    if np.array_equal(codes, array):
        return codes, np.ones(1, np.float32)
    if source is None or source.array.shape != array.shape:
        return None
    with np.errstate(over="ignore"):
        codes = source.array.astype(np.float16)
    if not np.array_equal(codes, source.array):
        return None
    before, after = (np.moveaxis(a, source.axis, 0).reshape(a.shape[source.axis], -1) for a in (source.array, array))
    largest = np.argmax(np.abs(before), axis=1)[:, None]
    divisor = np.take_along_axis(before, largest, axis=1)
    ratio = np.take_along_axis(after, largest, axis=1) / np.where(divisor == 0, np.float32(1), divisor)
    scale = ratio.astype(np.float32).reshape([-1 if axis == source.axis else 1 for axis in range(array.ndim)])
    return (codes, scale) if _equal(codes * scale, array) else None


def _equal(product: NDArray[np.float32], array: NDArray[np.float32]) -> bool:
    return bool(np.all(np.abs(product - array) <= _SAME * np.abs(array)))
