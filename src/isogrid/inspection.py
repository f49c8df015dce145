"""Counting what a file really holds.

One definition holds everywhere in the package, in reports and in files:

* ``parameters``: the numbers of all parameters, shared ones once; buffers (running statistics, index tables) are none;
* ``nonzeros``: those of them that are not zero, -0.0 being zero;
* ``sparsity``: the zero share of the *targets*, the weights that may be pruned;
* ``sparsity_of_model``: the zero share of all parameters;
* ``bytes``: of the file, with the external data of an ONNX file.

Files written by `isogrid.save` say what their targets are, so that counting gives the numbers of the model they were
made from.  In other safetensors files every floating point tensor of two axes or more counts as a target; in ONNX files
the operators tell (`isogrid.formats.onnx_reading`), and an exporter, or `isogrid pack`, may have folded parameters into
others.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isogrid.errors import RunError, UsageError
from isogrid.formats.onnx_reading import GraphWeight, read_onnx
from isogrid.formats.roles import Role, exceptional_roles, usual_role
from isogrid.formats.safetensors import TensorFile
from isogrid.formats.sparse import SparseTensor


@dataclass(frozen=True)
class LayerInspection:
    """One parameter of a file.

    Attributes:
        name, shape: of the tensor.
        target: whether it counts in ``sparsity``.
        values: number format in which it is stored, such as ``"int8"``.
        nonzeros, parameters: its numbers that are not zero, and all.
        bytes: that it takes in the file, beside names and other headers.
    """

    name: str
    shape: tuple[int, ...]
    target: bool
    values: str
    nonzeros: int
    parameters: int
    bytes: int

    @property
    def sparsity(self) -> float:
        """The zero share."""
        return _zero_share(self.nonzeros, self.parameters)


@dataclass(frozen=True)
class Inspection:
    """What a file holds; the words are defined at the top of this module.

    Attributes:
        path: of the file that was counted.
        format: ``"safetensors"`` or ``"onnx"``.
        layers: every parameter, in the order of the file.
        bytes: of the file.
        result: for a run directory the contents of its ``result.json``, else None.
        provenance: what an ONNX file says of how Isogrid made it.
    """

    path: Path
    format: str
    layers: tuple[LayerInspection, ...]
    bytes: int
    result: dict[str, Any] | None = None
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """The zero share of the targets; 0 where there are none."""
        targets = [layer for layer in self.layers if layer.target]
        return _zero_share(sum(t.nonzeros for t in targets), sum(t.parameters for t in targets))

    @property
    def sparsity_of_model(self) -> float:
        """The zero share of all parameters."""
        return _zero_share(self.nonzeros, self.parameters)

    @property
    def nonzeros(self) -> int:
        """Numbers of all parameters that are not zero."""
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Numbers of all parameters."""
        return sum(layer.parameters for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data; ``result`` and ``provenance`` only where there are any.

        A layer's ``sparsity_of_model`` is what it brings to that of the whole: its zeros as a share of all parameters.
        """
        plain: dict[str, Any] = {
            "path": str(self.path),
            "format": self.format,
            "sparsity": self.sparsity,
            "sparsity_of_model": self.sparsity_of_model,
            "nonzeros": self.nonzeros,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "layers": [
                {
                    "name": layer.name,
                    "shape": list(layer.shape),
                    "target": layer.target,
                    "values": layer.values,
                    "sparsity": layer.sparsity,
                    "sparsity_of_model": (layer.parameters - layer.nonzeros) / self.parameters
                    if self.parameters
                    else 0.0,
                    "nonzeros": layer.nonzeros,
                    "parameters": layer.parameters,
                    "bytes": layer.bytes,
                }
                for layer in self.layers
            ],
        }
        if self.provenance:
            plain["provenance"] = self.provenance
        return plain if self.result is None else {**plain, "result": self.result}


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Count a ``.safetensors`` file, an ``.onnx`` file, or the ``model.safetensors`` of a run directory.

    Raises:
        UsageError: there is no such file, or it is of another kind.
        FormatError: the file is damaged.
        RunError: the directory is no finished run, or its ``result.json`` is damaged.
        MissingDependencyError: an ONNX file, and onnx is not installed.

    >>> import tempfile
    >>> from isogrid.formats.safetensors import save_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_tensors(folder + "/m.safetensors", {"fc.weight": SparseTensor.from_dense(np.eye(50))})
    ...     found = inspect(folder + "/m.safetensors")
    >>> found.sparsity, found.nonzeros, found.parameters
    (0.98, 50, 2500)
    """
    path = Path(path)
    if path.is_dir():
        return _inspect_run(path)
    if path.suffix == ".safetensors":
        return _inspect_safetensors(path)
    if path.suffix == ".onnx":
        contents = read_onnx(path)
        return Inspection(path, "onnx", tuple(map(_layer, contents.weights)), contents.bytes, None, contents.notes)
    if not path.exists():
        raise UsageError(f"{path} does not exist; accepted are .safetensors and .onnx files and run directories.")
    raise UsageError(f"{path} is of no known kind; accepted are .safetensors and .onnx files and run directories.")


def _layer(weight: GraphWeight) -> LayerInspection:
    return LayerInspection(
        name=weight.name,
        shape=weight.shape,
        target=weight.role is Role.TARGET,
        values=weight.values,
        nonzeros=weight.nonzeros,
        parameters=math.prod(weight.shape),
        bytes=weight.bytes,
    )


def _inspect_safetensors(path: Path) -> Inspection:
    file = TensorFile(path)
    exceptions = exceptional_roles(file.metadata)
    layers = []
    for name in file.names:
        tensor = file[name]
        floating = isinstance(tensor, SparseTensor) or np.issubdtype(tensor.dtype, np.floating)
        role = exceptions.get(name, usual_role(name, floating, len(tensor.shape)))
        if role is Role.BUFFER:
            continue
        layers.append(
            LayerInspection(
                name=name,
                shape=tuple(tensor.shape),
                target=role is Role.TARGET,
                values=file.values(name),
                nonzeros=tensor.nonzeros if isinstance(tensor, SparseTensor) else int(np.count_nonzero(tensor)),
                parameters=tensor.size,
                bytes=file.stored_bytes(name),
            )
        )
    return Inspection(path, "safetensors", tuple(layers), path.stat().st_size)


def _inspect_run(path: Path) -> Inspection:
    model, result = path / "model.safetensors", path / "result.json"
    for file in (model, result):
        if not file.is_file():
            raise RunError(f"{path} is no finished run: {file.name} is missing.")
    try:
        contents = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        contents = None
    if not isinstance(contents, dict):
        raise RunError(f"{result} is damaged: it must be a JSON object.")
    found = _inspect_safetensors(model)
    return Inspection(model, found.format, found.layers, found.bytes, contents)


def _zero_share(nonzeros: int, size: int) -> float:
    return 1 - nonzeros / size if size else 0.0
