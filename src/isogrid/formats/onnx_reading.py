"""What an ONNX file holds: its parameters, what they are for, and how many of their numbers are not zero.

Reading needs onnx and neither PyTorch nor ONNX Runtime.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import FormatError, UsageError, first_line
from isogrid.formats.onnx_weights import require_onnx
from isogrid.formats.packed import unpack_matrix
from isogrid.formats.roles import Role
from isogrid.formats.sparse import MAX_SIZE

# Operators through which a weight passes on its way to the layer that uses it.
_CARRIERS = frozenset(
    {
        "Cast",
        "Concat",
        "DequantizeLinear",
        "Flatten",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
# Where layers take their weights: operator and inputs.
_WEIGHT_INPUTS = {
    "Conv": (1,),
    "ConvInteger": (1,),
    "ConvTranspose": (1,),
    "GRU": (1, 2),
    "Gemm": (0, 1),
    "LSTM": (1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (3,),
    "QLinearMatMul": (0, 3),
    "RNN": (1, 2),
}
# Where the operators of packed models take theirs (docs/decisions/0009-packed-onnx.md).
_PACKED_INPUTS = {
    "SparseConv": (1,),
    "SparseGRU": (1, 2, 3, 4),
    "SparseGather": (0,),
    "SparseLSTM": (1, 2, 3, 4),
    "SparseLinear": (1,),
}
_DOMAIN = "isogrid"
# Inputs that are settings of an operator and no parameters, whatever their type.
_SETTINGS = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "DequantizeLinear": (1, 2),
    "Pad": (2,),
    "QuantizeLinear": (1, 2),
    "Resize": (1, 2),
}
_FLOATING = {"FLOAT": "fp32", "FLOAT16": "fp16", "DOUBLE": "fp64", "BFLOAT16": "bf16"}
_CODES = {"INT8": "int8", "UINT8": "uint8", "INT4": "int4", "UINT4": "uint4"}


@dataclass(frozen=True)
class GraphWeight:
    """A parameter of an ONNX graph.

    Attributes:
        name: of the initializer, without what `isogrid.export` appends to the names of codes.
        shape: as stored.
        role: `Role.TARGET` or `Role.PARAMETER`.
        values: number format in which it is stored.
        nonzeros: numbers that are not zero (for codes with a zero point: not the zero point).
        bytes: of the file that it takes, scales not included.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    values: str
    nonzeros: int
    bytes: int


@dataclass(frozen=True)
class OnnxContents:
    """What `read_onnx` finds.

    Attributes:
        weights: the parameters in the order in which the file lists them.
        bytes: of the file, with those of external data.
        notes: what Isogrid wrote into the metadata: what the file was made from and how.
    """

    weights: tuple[GraphWeight, ...]
    bytes: int
    notes: dict[str, str]


def read_onnx(path: str | os.PathLike[str]) -> OnnxContents:
    """What the main graph of an ONNX file holds.

    Parameters are the floating point initializers of more than one number, and integer ones that are cast or
    dequantised, or multiplied as integers, and the packed weights of `isogrid pack`; not so the scales of quantisation,
    the running statistics of batch norms and the settings of operators.  Targets are those of two axes or more that a
    matrix product, a convolution or a recurrent layer multiplies by, except depthwise kernels and tables that are also
    looked up (embeddings).  An initializer counts once, however many nodes use it.

    Raises:
        UsageError: there is no such file.
        FormatError: the file is damaged or no ONNX model.
        MissingDependencyError: onnx is not installed.
    """
    onnx = require_onnx()
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path} is not a file; an .onnx file is needed.")
    try:
        model = onnx.load(path, load_external_data=False)
        if not model.opset_import:
            raise ValueError("it names no operator set")
        files = {path} | {path.parent / location for location in _external_files(onnx, model.graph)}
        onnx.load_external_data_for_model(model, str(path.parent))
        weights = tuple(_Graph(onnx, model.graph).parameters())
        notes = {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith("isogrid.")}
        return OnnxContents(weights, sum(file.stat().st_size for file in files), notes)
    except Exception as problem:
        raise FormatError(f"{path} cannot be read as ONNX: {first_line(problem)}.") from None


def _external_files(onnx: Any, graph: Any) -> set[str]:
    return {
        entry.value
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


@dataclass(frozen=True, eq=False)
class _Constant:
    """A stored tensor: `numbers` are all of them, or the nonzeros of a sparse one."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    numbers: NDArray[Any]
    sparse: bool
    bytes: int


class _Graph:
    """A graph, with the way from each constant to the nodes that use it."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx = onnx
        self._constants = {constant.name: constant for constant in self._read_constants(graph)}
        self._users: dict[str, list[tuple[Any, int]]] = {}
        for node in graph.node:
            for index, name in enumerate(node.input):
                self._users.setdefault(name, []).append((node, index))
        self._cast = {
            node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in self._constants
        }

    def parameters(self) -> Iterator[GraphWeight]:
        for constant in self._constants.values():
            uses = list(self._uses(constant.name))
            if constant.type_name == "UINT8" and any(_takes_packed(node, index) for node, index in uses):
                yield self._packed(constant, uses)
                continue
            role = self._role(constant, uses)
            if role is not Role.BUFFER:
                values = (_FLOATING | _CODES)[constant.type_name]
                name = constant.name.removesuffix(f".{constant.numbers.dtype}")
                nonzeros = self._count_nonzeros(constant)
                yield GraphWeight(name, constant.shape, role, values, nonzeros, constant.bytes)

    def _role(self, constant: _Constant, uses: list[tuple[Any, int]]) -> Role:
        used = [(node, index) for node, index in uses if index not in _SETTINGS.get(node.op_type, ())]
        weight_uses = [(node, index) for node, index in used if index in _WEIGHT_INPUTS.get(node.op_type, ())]
        if constant.type_name in _CODES:
            direct = [node.op_type for node, _ in self._users.get(constant.name, ())]
            stored = bool(weight_uses) or "Cast" in direct or "DequantizeLinear" in direct
        else:
            stored = constant.type_name in _FLOATING and not self._is_scale(constant.name)
        if not stored or not used or math.prod(constant.shape) < 2:
            return Role.BUFFER
        looked_up = any(node.op_type == "Gather" and index == 0 for node, index in used)
        depthwise = any(_is_depthwise(node, constant.shape) for node, _ in weight_uses)
        is_target = weight_uses and len(constant.shape) >= 2 and not looked_up and not depthwise
        return Role.TARGET if is_target else Role.PARAMETER

    def _packed(self, constant: _Constant, uses: list[tuple[Any, int]]) -> GraphWeight:
        matrix = unpack_matrix(constant.numbers.tobytes())
        looked_up = any(node.op_type == "SparseGather" for node, _ in uses)
        depthwise = any(_is_depthwise(node, _kernel_shape(node, matrix.shape)) for node, _ in uses)
        role = Role.PARAMETER if looked_up or depthwise else Role.TARGET
        name = constant.name.removesuffix(".packed")
        return GraphWeight(name, matrix.shape, role, matrix.kind, matrix.nonzeros, constant.bytes)

    def _uses(self, name: str) -> Iterator[tuple[Any, int]]:
        """The nodes that compute with the constant called `name`, behind those that only carry it."""
        waiting, seen = [name], {name}
        while waiting:
            for node, index in self._users.get(waiting.pop(), ()):
                scaled = node.op_type == "Mul" and node.input[index] in self._cast
                if not scaled and (node.op_type not in _CARRIERS or (index and node.op_type != "Concat")):
                    yield node, index
                    continue
                waiting += [output for output in node.output if output not in seen]
                seen |= set(node.output)

    def _is_scale(self, name: str) -> bool:
        """Whether this constant multiplies codes that were just cast."""
        return any(
            node.op_type == "Mul" and any(other in self._cast for other in node.input)
            for node, _ in self._users.get(name, ())
        )

    def _count_nonzeros(self, constant: _Constant) -> int:
        numbers = constant.numbers
        for node, index in self._users.get(constant.name, ()):
            if node.op_type == "DequantizeLinear" and index == 0 and len(node.input) > 2 and not constant.sparse:
                zero = self._constants[node.input[2]].numbers
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                if zero.ndim == 1 and zero.size > 1:
                    zero = zero.reshape([-1 if a == axis % numbers.ndim else 1 for a in range(numbers.ndim)])
                return int(np.count_nonzero(numbers != zero))
        return int(np.count_nonzero(numbers != 0))

    def _read_constants(self, graph: Any) -> Iterator[_Constant]:
        nodes = [node for node in graph.node if node.op_type == "Constant" and node.attribute]
        for tensor in graph.initializer:
            yield self._dense(tensor.name, tensor)
        for tensor in graph.sparse_initializer:
            yield self._sparse(tensor.values.name, tensor)
        for node in nodes:
            attribute = node.attribute[0]
            if attribute.name == "value":
                yield self._dense(node.output[0], attribute.t)
            elif attribute.name == "sparse_value":
                yield self._sparse(node.output[0], attribute.sparse_tensor)

    def _dense(self, name: str, tensor: Any) -> _Constant:
        numbers = self._onnx.numpy_helper.to_array(tensor)
        return _Constant(name, tuple(tensor.dims), self._type_name(tensor), numbers, False, tensor.ByteSize())

    def _sparse(self, name: str, tensor: Any) -> _Constant:
        shape = tuple(tensor.dims)
        values = self._onnx.numpy_helper.to_array(tensor.values)
        positions = self._onnx.numpy_helper.to_array(tensor.indices).astype(np.int64)
        if min(shape, default=1) < 0 or math.prod(shape) > MAX_SIZE:
            raise ValueError(f"{name} has the impossible shape {shape}")
        if positions.ndim == 2 and positions.shape[1] == len(shape):
            if np.any(positions < 0) or np.any(positions >= np.array(shape)):
                raise ValueError(f"{name} has positions outside its shape {shape}")
            positions = np.ravel_multi_index(tuple(positions.T), shape)
        if positions.shape != values.shape or values.ndim != 1:
            raise ValueError(f"{name} has {values.size} values and positions of shape {positions.shape}")
        if positions.size and not (positions.min() >= 0 and positions.max() < math.prod(shape)):
            raise ValueError(f"{name} has positions outside its shape {shape}")
        if len(np.unique(positions)) != len(positions):
            raise ValueError(f"{name} names a position twice")
        return _Constant(name, shape, self._type_name(tensor.values), values, True, tensor.ByteSize())

    def _type_name(self, tensor: Any) -> str:
        name: str = self._onnx.TensorProto.DataType.Name(tensor.data_type)
        return name


def _takes_packed(node: Any, index: int) -> bool:
    return node.domain == _DOMAIN and index in _PACKED_INPUTS.get(node.op_type, ())


def _kernel_shape(node: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Outputs and inputs of each group of a packed convolution."""
    kernel = next((a.ints for a in node.attribute if a.name == "kernel_shape"), (1,))
    return shape[0], shape[1] // max(math.prod(kernel), 1)


def _is_depthwise(node: Any, shape: Iterable[int]) -> bool:
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    outputs, inputs, *_ = *shape, 0, 0
    return group > 1 and (inputs == 1 or group == outputs)
