"""Packed weights written as docs/decisions/0009-packed-onnx.md says, by nothing of the package, and models around them.

What is here must run with the oldest ONNX Runtime that is accepted, so it needs neither PyTorch nor a new numpy.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from isogrid.runtime.library import library_path

Floats = NDArray[np.float32]

VALUES = ("fp32", "fp16", "int8")
POSITIONS = ("rice", "bitmap", "dense")
ACTIVATIONS = (
    "none", "relu", "clip", "leaky_relu", "gelu", "gelu_tanh", "silu", "hard_swish", "hard_sigmoid", "sigmoid", "tanh",
    "sparse_relu", "sparse_tanh",
)  # fmt: skip

# IR and operators that the oldest runtime knows too.
IR_VERSION, OPSET = 8, 17


def weights(random: np.random.Generator, rows: int, columns: int, density: float = 0.2) -> Floats:
    """Weights that every number format holds exactly, some rows empty: whole multiples of 1/64 up to 127/64."""
    codes = random.integers(1, 128, (rows, columns)) * random.choice([-1, 1], (rows, columns))
    codes[random.random((rows, columns)) >= density] = 0
    largest = random.integers(0, columns, rows)
    codes[np.arange(rows), largest] = 127
    codes[random.random(rows) < 0.1] = 0
    return (codes / 64).astype(np.float32)


def inputs(random: np.random.Generator, *shape: int) -> Floats:
    """Multiples of 1/4, whose products with `weights` have exact sums."""
    return np.asarray(random.integers(-8, 9, shape) / 4, np.float32)


def pack(weight: Floats, values: str = "fp32", positions: str = "rice") -> bytes:
    """The bytes of a packed matrix."""
    rows, columns = weight.shape
    scales = b""
    stored: NDArray[Any] = weight.reshape(-1)
    if values == "fp16":
        stored = stored.astype(np.float16)
    elif values == "int8":
        largest = np.abs(weight).max(axis=1)
        scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
        bits = (scale.view(np.uint32) + np.uint32(255)) & np.uint32(0xFFFFFF00)
        scales = bits.astype("<u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
        stored = np.rint(weight / bits.view(np.float32)[:, None]).astype(np.int8).reshape(-1)
    places = np.flatnonzero(stored)
    where = {
        "rice": lambda: rice(places.tolist(), 2),
        "bitmap": lambda: np.packbits(stored != 0, bitorder="little").tobytes(),
        "dense": lambda: b"",
    }[positions]()
    kept = stored if positions == "dense" else stored[places]
    return (
        header(rows, columns, len(places), VALUES.index(values), POSITIONS.index(positions))
        + scales
        + where
        + kept.tobytes()
    )


def header(rows: int, columns: int, nonzeros: int, values: int = 0, positions: int = 0) -> bytes:
    return b"isogrid\x01" + struct.pack("<BBHIIIQ", values, positions, 0, rows, columns, 0, nonzeros)


def rice(places: Sequence[int], parameter: int) -> bytes:
    """Each gap in unary and in `parameter` low bits, the lowest bit of each byte first."""
    bits: list[int] = []
    before = -1
    for place in places:
        gap = place - before - 1
        bits += [0] * (gap >> parameter) + [1] + [gap >> bit & 1 for bit in range(parameter)]
        before = place
    return bytes([parameter]) + np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def model(
    nodes: Sequence[onnx.NodeProto],
    given: Mapping[str, Sequence[int | str] | None],
    asked: Sequence[str],
    constants: Mapping[str, NDArray[Any] | bytes],
    types: Mapping[str, int] | None = None,
    overridable: Sequence[str] = (),
) -> bytes:
    """A model as bytes: `given` are its inputs and their shapes, float32 unless `types` says otherwise."""
    tensors = {
        name: np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value for name, value in constants.items()
    }
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            *(helper.make_tensor_value_info(n, (types or {}).get(n, TensorProto.FLOAT), s) for n, s in given.items()),
            *(helper.make_tensor_value_info(n, TensorProto.UINT8, tensors[n].shape) for n in overridable),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in asked],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    operators = [helper.make_opsetid("", OPSET), helper.make_opsetid("isogrid", 1)]
    written: bytes = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=operators).SerializeToString()
    return written


def node(kind: str, given: Sequence[str], made: Sequence[str], name: str = "node", **attributes: Any) -> Any:
    return helper.make_node(kind, list(given), list(made), name=name, domain="isogrid", **attributes)


def session(written: bytes, threads: int = 2) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are looked at here, not printed
    options.register_custom_ops_library(os.fspath(library_path()))
    return onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])


def infers_shapes() -> bool:
    """Whether this runtime lets operators infer shapes; those before 1.24 fall over where an input is left out."""
    return tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 24)


def activated(x: NDArray[np.float64], activation: str, low: float = 0.0, high: float = 0.0) -> NDArray[np.float64]:
    """The activation by its formula."""
    import math

    def sigmoid(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-t))

    erf = np.vectorize(math.erf, otypes=[np.float64])
    result: NDArray[np.float64] = {
        "none": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "clip": lambda: np.minimum(np.maximum(x, low), high),
        "leaky_relu": lambda: np.where(x > 0, x, low * x),
        "gelu": lambda: x * (1 + erf(x / math.sqrt(2))) / 2,
        "gelu_tanh": lambda: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        "silu": lambda: x * sigmoid(x),
        "hard_swish": lambda: x * np.clip(x + 3, 0, 6) / 6,
        "hard_sigmoid": lambda: np.clip(x + 3, 0, 6) / 6,
        "sigmoid": lambda: sigmoid(x),
        "tanh": lambda: np.tanh(x),
        "sparse_relu": lambda: np.where(x > low, x, 0),
        "sparse_tanh": lambda: np.where(np.abs(x) > low, np.tanh(x), 0),
    }[activation]()
    return result
