"""Sparse tensors inside safetensors files.

The file is an ordinary safetensors file (https://github.com/huggingface/safetensors): any reader opens it and sees all
names.  Arrays are stored as always.  A `SparseTensor` is stored as one U8 tensor under its own name, and the metadata
says under the same key what the bytes are::

    "isogrid": "1"                           version of this layout, in every file that has sparse tensors
    "fc1.weight": "int8 rice 320 100x64"     number format, positions, nonzeros, shape; " axis1" where it is not 0

The bytes, scales, positions and values, are those of `isogrid.formats.codec`.

Per tensor the smallest of these is taken.  Where that is a dense float32 or float16 array it is stored as an ordinary
tensor without an entry in the metadata, and comes back as an array.  One object under several names is stored once:
``"isogrid.tied"`` maps the further names to the first, as JSON.  Equal input gives equal bytes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from isogrid.errors import FormatError, UsageError
from isogrid.formats.codec import Positions, decode, encode
from isogrid.formats.files import write_atomically
from isogrid.formats.numbers import exact_values, parse_values
from isogrid.formats.sparse import SparseTensor, check_shape

Tensor = NDArray[Any] | SparseTensor

VERSION = "1"
VERSION_KEY = "isogrid"
TIED_KEY = "isogrid.tied"

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# In a message or a table these would break the line or steer the terminal.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ENTRY = re.compile(r"(fp32|fp16|int8) (rice|bitmap|dense) (\d{1,15}) (\d{1,15}(?:x\d{1,15}){0,63})(?: axis(\d{1,2}))?")


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> int:
    """Write `tensors` and `metadata` to `path`, whole or not at all, and give the number of bytes.

    Raises:
        UsageError: as `serialize`.
        RunError: the file cannot be written.
    """
    data = serialize(tensors, metadata)
    write_atomically(path, data)
    return len(data)


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, of ours or any other, and the metadata that was given to `save_tensors`.

    Arrays keep their dtype; bfloat16, which numpy lacks, becomes float32.

    Raises:
        UsageError: there is no such file.
        FormatError: the file is damaged, of another version, or not what it claims to be.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "m.safetensors"
    ...     _ = save_tensors(path, {"w": SparseTensor.from_dense(np.eye(99))}, {"task": "demo"})
    ...     tensors, metadata = load_tensors(path)
    >>> tensors["w"].nonzeros, metadata
    (99, {'task': 'demo'})
    """
    file = TensorFile(path)
    return dict(file.items()), file.metadata


def check_text(metadata: Mapping[Any, Any]) -> None:
    """Raise ``UsageError`` for metadata that a file could not give back: anything but text."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise UsageError(f"The metadata got {key!r}: {value!r}; accepted are keys and values of text.")


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes that `save_tensors` writes.

    Raises:
        UsageError: a name, a metadata key or a dtype that the format has no place for.
        FormatError: a sparse tensor breaks a promise of its class.

    >>> len(serialize({"w": np.zeros(2, np.float32)}))
    72
    """
    notes = dict(metadata or {})
    check_text(notes)
    for key in notes:
        if key in tensors or key in (VERSION_KEY, TIED_KEY):
            raise UsageError(f"The metadata key {key!r} is a tensor's name or one of the format's own; choose another.")
    stored: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    first_names: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        if name in ("__metadata__", VERSION_KEY, TIED_KEY):
            raise UsageError(f"A tensor cannot be called {name!r}, a word of the format itself.")
        if _CONTROL.search(name):
            raise UsageError(f"A tensor cannot be called {name!r}: names have no control characters.")
        if id(tensor) in first_names:
            tied[name] = first_names[id(tensor)]
            continue
        first_names[id(tensor)] = name
        entry, array = pack(tensor, name)
        if entry is not None:
            notes[name] = entry
            notes[VERSION_KEY] = VERSION
        stored[name] = (_NAMES[array.dtype], array.shape, array.tobytes())
    if tied:
        notes[TIED_KEY] = json.dumps(tied, separators=(",", ":"), ensure_ascii=False)
        notes[VERSION_KEY] = VERSION
    return _assemble(stored, notes)


def pack(tensor: Tensor, name: str = "weight") -> tuple[str | None, NDArray[Any]]:
    """How a tensor is stored: its metadata entry (None for an ordinary array) and the array that goes into the file.

    Raises:
        UsageError, FormatError: as `serialize`.

    >>> pack(SparseTensor.from_dense(np.eye(99)))[0]
    'fp32 rice 99 99x99'
    """
    if not isinstance(tensor, SparseTensor):
        array = np.asarray(tensor)
        if array.dtype.newbyteorder("<") not in _NAMES:
            raise UsageError(
                f"{name} has dtype {array.dtype}; accepted are boolean, integer and float16 to float64 arrays."
            )
        return None, np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    codec, data = encode(tensor)
    if codec == "dense" and tensor.scale is None:
        return None, tensor.stored_dense()
    entry = f"{tensor.kind} {codec} {tensor.nonzeros} {'x'.join(map(str, tensor.shape))}"
    entry += f" axis{tensor.axis}" if tensor.axis and tensor.scale is not None else ""
    return entry, np.frombuffer(data, np.uint8)


def smallest(weight: NDArray[np.float32], axis: int = 0) -> SparseTensor:
    """The sparse tensor that stands for exactly `weight` in the fewest bytes of file.

    >>> smallest(np.eye(99, dtype=np.float32)).kind
    'fp16'
    """

    def size(tensor: SparseTensor) -> int:
        entry, array = pack(tensor)
        return array.nbytes + len(entry or "")

    exact = [SparseTensor.from_dense(weight, values, axis) for values in exact_values(weight, axis)]
    return exact[0] if len(exact) == 1 else min(exact, key=size)


class TensorFile:
    """A safetensors file whose tensors are read one at a time.

    Attributes:
        names: of all tensors, sorted; tied ones are listed in `tied` only.
        tied: further names of stored tensors.
        metadata: what the writer added, without the entries of the format itself.

    Raises:
        UsageError: there is no such file.
        FormatError: the file is damaged or of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UsageError(f"{self.path} is not a file; a .safetensors file is needed.")
        header, self._data = self._read_header()
        notes = header.pop("__metadata__", None) or {}
        self._tensors: dict[str, dict[str, Any]] = header
        self.names = sorted(self._tensors)
        self._check_names(self.names)
        version = notes.pop(VERSION_KEY, None)
        if version not in (None, VERSION):
            raise self._damage(f"it has version {version[:20]!r} of the isogrid layout, and this one reads {VERSION!r}")
        ours = version is not None
        self._entries = {name: notes.pop(name) for name in self.names if ours and name in notes}
        self.tied = self._read_tied(notes.pop(TIED_KEY)) if ours and TIED_KEY in notes else {}
        self.metadata: dict[str, str] = notes

    def __getitem__(self, name: str) -> Tensor:
        """The tensor called `name`.

        Raises:
            FormatError: its bytes are not what its entry says.
        """
        array = self._array(name)
        if name not in self._entries:
            return array
        try:
            return _unpack(self._entries[name], array)
        except FormatError as problem:
            raise self._damage(f"{name}: {str(problem).rstrip('.')}") from None

    def values(self, name: str) -> str:
        """The number format of a stored tensor, such as ``"int8"``."""
        if name in self._entries:
            return str(self._entries[name].partition(" ")[0])
        dtype: str = self._tensors[name]["dtype"]
        return {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}.get(dtype, dtype.lower())

    def stored_bytes(self, name: str) -> int:
        """The bytes of data of a stored tensor."""
        begin, end = self._tensors[name]["data_offsets"]
        return int(end - begin)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """All names and tensors; a tied name gives the very object of its first name."""
        read: dict[str, Tensor] = {}
        for name in self.names:
            read[name] = self[name]
            yield name, read[name]
        for name, first in self.tied.items():
            yield name, read[first]

    def _read_header(self) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """The header as JSON, once the safetensors library has found the whole layout sound, and all data bytes."""
        try:
            with safe_open(self.path, framework="np"):
                pass
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header: dict[str, Any] = json.loads(file.read(length))
            if self.path.stat().st_size == 8 + length:
                return header, np.zeros(0, np.uint8)
            return header, np.memmap(self.path, np.uint8, "r", offset=8 + length)
        except (SafetensorError, OSError, ValueError, RecursionError) as problem:
            raise self._damage(str(problem).rstrip(".") or type(problem).__name__) from None

    def _array(self, name: str) -> NDArray[Any]:
        entry = self._tensors[name]
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        # A scalar is fine here, beside the shapes that a sparse tensor may have.
        if shape:
            try:
                check_shape(shape)
            except FormatError as problem:
                raise self._damage(f"{name}: {str(problem).rstrip('.')}") from None
        # A copy: an array must outlive the file, and be writable.
        data = np.array(self._data[begin:end])
        if entry["dtype"] == "BF16":
            widened = data.view("<u2").astype(np.uint32) << 16
            return widened.view(np.float32).reshape(shape)
        if entry["dtype"] not in _DTYPES:
            raise self._damage(f"{name} has dtype {entry['dtype']}, which is not read here")
        array: NDArray[Any] = data.view(_DTYPES[entry["dtype"]]).reshape(shape)
        return array

    def _read_tied(self, text: str) -> dict[str, str]:
        try:
            tied = json.loads(text)
        except (ValueError, RecursionError):
            tied = None
        if not isinstance(tied, dict) or not all(
            isinstance(first, str) and first in self._tensors and name not in self._tensors
            for name, first in tied.items()
        ):
            raise self._damage("its list of tied tensors is malformed")
        self._check_names(tied)
        return tied

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            if _CONTROL.search(name):
                raise self._damage(f"a tensor is called {name[:100]!r}, and names have no control characters")

    def _damage(self, what: str) -> FormatError:
        return FormatError(f"{self.path} cannot be read: {what}.")


def _unpack(entry: str, array: NDArray[Any]) -> SparseTensor:
    """Inverse of `pack` for tensors that have an entry."""
    match = _ENTRY.fullmatch(entry)
    if match is None or array.dtype != np.uint8 or array.ndim != 1:
        raise FormatError(f"the entry {entry[:100]!r} with {array.dtype} data {array.shape} describes no sparse tensor")
    kind, codec, nonzeros, axis = parse_values(match[1]), match[2], int(match[3]), int(match[5] or 0)
    shape = tuple(map(int, match[4].split("x")))
    # The pattern of entries lets no other codec pass.
    return decode(array.tobytes(), kind, cast(Positions, codec), nonzeros, shape, axis)


def _assemble(stored: Mapping[str, tuple[str, tuple[int, ...], bytes]], notes: Mapping[str, str]) -> bytes:
    """The file: header length, header padded to 8 bytes, data; wide dtypes first, so that every tensor is aligned."""
    header: dict[str, Any] = {"__metadata__": {key: notes[key] for key in sorted(notes)}} if notes else {}
    order = sorted(stored, key=lambda name: (-_DTYPES[stored[name][0]].itemsize, name))
    offset = 0
    for name in order:
        dtype, shape, data = stored[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageError("A tensor's name or the metadata holds half a character (a lone surrogate).") from None
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(stored[name][2] for name in order)])
