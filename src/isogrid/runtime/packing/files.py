"""ONNX files of any size in and out, nothing lost on the way: external data, sparse initializers, metadata."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from isogrid.errors import FormatError, RunError, UnsupportedError, UsageError, first_line
from isogrid.formats.files import write_atomically

OLDEST_OPSET = 13
LARGEST_FILE = 2_000_000_000
"""Bytes of weights from which on a file keeps them in a second one: a protocol buffer ends at 2**31."""

_INLINE = 1024
"""Tensors up to this size stay in the first file."""
_ALIGNMENT = 64
_TYPE = "isogrid.type"


@dataclass
class Source:
    """A model that was read.

    Attributes:
        path: its file.
        proto: all of it, large tensors perhaps still in their external file.
        sha256: of the bytes of all its files.
        bytes: of all its files.
        sparse: the sparse initializers by name; `model` has them dense.
    """

    path: Path
    proto: onnx.ModelProto
    sha256: str
    bytes: int
    sparse: dict[str, onnx.SparseTensorProto] = field(default_factory=dict)

    def model(self) -> ir.Model:
        """A fresh graph to work on; its large tensors are views of the file."""
        proto = self.proto
        if self.sparse or any(_sparse_constants(proto.graph)):
            proto = onnx.ModelProto()
            proto.CopyFrom(self.proto)
            make_dense(proto.graph)
        model = to_graph(proto)
        ir.external_data.set_base_dir(model.graph, self.path.parent)
        return model

    def copy(self) -> onnx.ModelProto:
        """The model as it was read, with all its weights."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        load_external(proto, self.path.parent)
        return proto


def read_model(path: str | os.PathLike[str]) -> Source:
    """Read an ONNX file whose operator set is known here.

    Raises:
        UsageError: there is no such file.
        FormatError: it is damaged or no ONNX model.
        UnsupportedError: its operator set is too old or too new.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path} is not a file; an .onnx file is needed.")
    try:
        proto = onnx.load(path, load_external_data=False)
        if not proto.opset_import or not proto.graph.output:
            raise ValueError("it has no operator set or no output")
        files = _files(path, proto)
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as opened:
                while chunk := opened.read(1 << 22):
                    digest.update(chunk)
        source = Source(path, proto, digest.hexdigest(), sum(file.stat().st_size for file in files))
        for tensor in proto.graph.sparse_initializer:
            _dense(tensor, tensor.values.name)
            source.sparse[tensor.values.name] = tensor
        source.model()
    except Exception as problem:
        raise FormatError(f"{path} cannot be read as ONNX: {first_line(problem)}.") from None
    opset = opset_of(proto)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UnsupportedError(
            f"{path} has opset {opset}; accepted are {OLDEST_OPSET} to {newest} (onnx.version_converter changes it)."
        )
    return source


def file_bytes(path: Path) -> int:
    """Of a model, with its external data; its tensors are not read."""
    return sum(file.stat().st_size for file in _files(path, onnx.load(path, load_external_data=False)))


def opset_of(proto: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model uses."""
    return max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=OLDEST_OPSET)


def to_graph(proto: onnx.ModelProto) -> ir.Model:
    """The model as a graph to work on; maps, which graphs do not know, are outputs without a type there."""
    maps = {output.name: output.type for output in proto.graph.output if _is_map(output.type)}
    if maps:
        plain = onnx.ModelProto()
        plain.CopyFrom(proto)
        for output in plain.graph.output:
            if output.name in maps:
                output.ClearField("type")
        infos = [info for info in plain.graph.value_info if not _is_map(info.type)]
        del plain.graph.value_info[:]
        plain.graph.value_info.extend(infos)
        proto = plain
    model = ir.serde.deserialize_model(proto)
    for value in model.graph.outputs:
        if value.name in maps:
            value.meta[_TYPE] = maps[value.name]
    return model


def _is_map(kind: onnx.TypeProto) -> bool:
    while kind.HasField("sequence_type") or kind.HasField("optional_type"):
        kind = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
    return bool(kind.HasField("map_type"))


def to_proto(model: ir.Model, sparse: dict[str, onnx.SparseTensorProto] | None = None) -> onnx.ModelProto:
    """The model as a protocol buffer; initializers that are still what `sparse` says are stored as they were."""
    model.graph.sort()
    proto = ir.serde.serialize_model(model)
    for value, output in zip(model.graph.outputs, proto.graph.output, strict=True):
        if _TYPE in value.meta:
            output.type.CopyFrom(value.meta[_TYPE])
    if sparse:
        kept = [tensor for tensor in proto.graph.initializer if tensor.name not in sparse]
        back = [sparse[tensor.name] for tensor in proto.graph.initializer if tensor.name in sparse]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
        proto.graph.sparse_initializer.extend(back)
        # Shapes of sparse initializers stand in themselves.
        infos = [info for info in proto.graph.value_info if info.name not in sparse]
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(infos)
    return proto


def set_metadata(proto: onnx.ModelProto, notes: dict[str, str]) -> None:
    """Add `notes` to the metadata, in the place of what has the same names."""
    kept = {entry.key: entry.value for entry in proto.metadata_props} | notes
    del proto.metadata_props[:]
    for key in sorted(kept):
        proto.metadata_props.add(key=key, value=kept[key])


class Draft:
    """A model that is to become a file: it can be run before it is one.

    Large models are written to a folder beside the target, which `close` takes away.
    """

    def __init__(self, proto: onnx.ModelProto, target: Path, base: Path) -> None:
        self._target = target
        self._folder: Path | None = None
        load_external(proto, base)
        if weight_bytes(proto) <= LARGEST_FILE:
            self._data = proto.SerializeToString(deterministic=True)
            return
        self._folder = target.parent / f".{target.name}.{secrets.token_hex(8)}.part"
        try:
            self._folder.mkdir()
            _move_out(proto, self._folder / f"{target.name}.data")
            (self._folder / target.name).write_bytes(proto.SerializeToString(deterministic=True))
        except OSError as problem:
            self.close()
            raise RunError(f"{target} cannot be written ({problem.strerror or problem}).") from problem

    @property
    def model(self) -> bytes | str:
        """What ONNX Runtime loads."""
        return self._data if self._folder is None else str(self._folder / self._target.name)

    @property
    def bytes(self) -> int:
        """Of all files."""
        if self._folder is None:
            return len(self._data)
        return sum(file.stat().st_size for file in self._folder.iterdir())

    def publish(self) -> None:
        """Put the file, or both, where they belong.

        Raises:
            RunError: they cannot be written.
        """
        if self._folder is None:
            write_atomically(self._target, self._data)
            return
        try:
            for name in (f"{self._target.name}.data", self._target.name):
                with (self._folder / name).open("rb") as file:
                    os.fsync(file.fileno())
                (self._folder / name).replace(self._target.parent / name)
        except OSError as problem:
            raise RunError(f"{self._target} cannot be written ({problem.strerror or problem}).") from problem

    def close(self) -> None:
        """Remove what was written for the time being."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_external(proto: onnx.ModelProto, base: Path) -> None:
    """Bring all external data of `proto`, in files beside `base`, into it.

    Raises:
        FormatError: a file is missing, or shorter than `proto` says.
    """
    for tensor in _tensors(proto.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            try:
                load_external_data_for_tensor(tensor, str(base))
            except Exception as problem:
                raise FormatError(f"The weight {tensor.name} cannot be read: {first_line(problem)}.") from None
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def weight_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of all its tensors."""
    dense = sum(len(tensor.raw_data) or tensor.ByteSize() for tensor in _tensors(proto.graph))
    return int(dense + sum(tensor.ByteSize() for tensor in proto.graph.sparse_initializer))


def _move_out(proto: onnx.ModelProto, path: Path) -> None:
    with path.open("xb") as file:
        for tensor in proto.graph.initializer:
            if tensor.data_type == TensorProto.STRING:
                continue
            data = tensor.raw_data
            if not data and tensor.ByteSize() > _INLINE:
                data = numpy_helper.to_array(tensor).tobytes()
            if len(data) <= _INLINE:
                continue
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            place = {"location": path.name, "offset": str(file.tell()), "length": str(len(data))}
            file.write(data)
            header = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            header.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                header.external_data.add(key=key, value=value)
            tensor.CopyFrom(header)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The dense tensors of a graph and of those in it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _tensors(inner)


def _files(path: Path, proto: onnx.ModelProto) -> list[Path]:
    return [path, *sorted(_external_files(path.parent, proto))]


def _external_files(folder: Path, proto: onnx.ModelProto) -> set[Path]:
    files = set()
    for tensor in _tensors(proto.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = folder / location
        if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
            raise ValueError(f"its external data {location!r} is no file beside it")
        _check_length(tensor, file)
        files.add(file)
    return files


def _check_length(tensor: onnx.TensorProto, file: Path) -> None:
    """Whether an external file is as long as a tensor in it needs."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    needed = int(place.get("offset", 0)) + int(place.get("length", 0))
    if file.stat().st_size < needed:
        raise ValueError(f"its external data {file.name} has {file.stat().st_size} bytes where {needed} are needed")


def _sparse_constants(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "sparse_value":
            yield node


def make_dense(graph: onnx.GraphProto) -> None:
    """Store all sparse tensors of a graph as dense ones, in place."""
    for tensor in graph.sparse_initializer:
        name = tensor.values.name
        graph.initializer.append(numpy_helper.from_array(_dense(tensor, name), name))
    del graph.sparse_initializer[:]
    for node in _sparse_constants(graph):
        array = _dense(node.attribute[0].sparse_tensor, node.output[0])
        del node.attribute[:]
        node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(array)))


def _dense(tensor: onnx.SparseTensorProto, name: str) -> np.ndarray[Any, Any]:
    shape = tuple(tensor.dims)
    values = numpy_helper.to_array(tensor.values)
    positions = numpy_helper.to_array(tensor.indices).astype(np.int64)
    if positions.ndim == 2 and positions.shape[1] == len(shape):
        positions = np.ravel_multi_index(tuple(positions.T), shape).astype(np.int64)
    dense = np.zeros(shape, values.dtype)
    if positions.shape != values.shape or values.ndim != 1:
        raise ValueError(f"{name} has {values.size} values and positions of shape {positions.shape}")
    if positions.size and not (positions.min() >= 0 and positions.max() < dense.size):
        raise ValueError(f"{name} has positions outside its shape {shape}")
    dense.reshape(-1)[positions] = values
    return dense
