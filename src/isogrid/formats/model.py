"""PyTorch models in sparse safetensors files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isogrid.errors import FormatError, UnsupportedError, UsageError
from isogrid.formats.files import write_atomically
from isogrid.formats.numbers import Values, to_float32
from isogrid.formats.roles import Role, role_metadata, usual_role
from isogrid.formats.safetensors import VERSION_KEY, TensorFile, check_text, serialize, smallest
from isogrid.formats.safetensors import Tensor as Stored
from isogrid.formats.sparse import SparseTensor
from isogrid.formats.weights import Selection, rounded_weights, to_numpy, unwrapped, weight_targets


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    values: Values = "fp32",
    targets: Selection = None,
    ignore: Selection = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write the ``state_dict`` of `model` to a safetensors file, sparse wherever that is smaller; give its bytes.

    ``values="fp32"`` loses nothing.  ``"fp16"`` and ``"int8"`` first round the weights as `isogrid.quantize` does, in
    the file only: the model stays as it is.  Whatever is rounded already is recognised: every parameter of two axes or
    more is stored in the fewest bytes that hold it exactly, so that a quantised model is small even with ``"fp32"``.
    Other parameters are stored as float32 (float64 is rounded to it), buffers as they are, shared parameters once.

    Args:
        model: its wrappers (``torch.compile``, DDP, averaged models) are seen through.
        path: the file; written whole or not at all.
        values: number format of the weights.
        targets, ignore: the weights that count as targets in `isogrid.inspect`, and those that are rounded (with the
            embeddings, where `targets` is not given); names as in `isogrid.masks.find_targets`.
        metadata: further entries for the file.

    Raises:
        UsageError: no module, an unknown number format, or metadata that is no text or whose key begins with
            ``isogrid``.
        TargetError: `targets` or `ignore` match nothing.
        TrainingError, UnsupportedError: a weight that cannot be rounded (the message names it), or state that is no
            tensor.
        RunError: the file cannot be written.

    >>> import tempfile, torch
    >>> layer = torch.nn.Linear(64, 8)
    >>> _ = layer.weight.data.mul_(torch.rand(8, 64) > 0.9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = save(layer, folder + "/layer.safetensors", values="int8")
    ...     size == model_bytes(layer, "int8"), size < 400
    (True, True)
    """
    data = _serialize(model, values, targets, ignore, metadata)
    write_atomically(path, data)
    return len(data)


def model_bytes(
    model: nn.Module,
    values: Values = "fp32",
    *,
    targets: Selection = None,
    ignore: Selection = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Exactly the bytes of the file that `save` would write with these arguments; nothing is written.

    Raises:
        As `save`, except RunError.

    >>> model_bytes(torch.nn.Linear(2, 2))
    152
    """
    return len(_serialize(model, values, targets, ignore, metadata))


def load(path: str | os.PathLike[str], into: nn.Module) -> nn.Module:
    """Fill `into` with the tensors of a safetensors file, of ours or any other, and give it back.

    Names and shapes must be those of the model's ``state_dict``; dtypes are cast to the model's.  Parameters that the
    model shares need only one of their names in the file.  Nothing is changed unless all fits.

    Raises:
        UsageError: there is no such file, or `into` is no module.
        FormatError: the file is damaged, or does not fit the model; the message names what differs.

    >>> import tempfile, torch
    >>> first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save(first, folder + "/layer.safetensors")
    ...     torch.equal(load(folder + "/layer.safetensors", second).weight, first.weight)
    True
    """
    model = unwrapped(into)
    stored = dict(TensorFile(path).items())
    state: dict[str, Any] = model.state_dict()
    first_names = _first_names(model)
    groups: dict[str, list[str]] = {}
    for name in state:
        groups.setdefault(first_names.get(name, name), []).append(name)

    missing = [names[0] for names in groups.values() if not any(name in stored for name in names)]
    unexpected = [name for name in stored if name not in state]
    if missing or unexpected:
        differences = [f"it lacks {_listed(missing)}"] * bool(missing)
        differences += [f"it has {_listed(unexpected)}, which the model lacks"] * bool(unexpected)
        raise FormatError(f"{os.fspath(path)} does not fit this {type(model).__name__}: {' and '.join(differences)}.")

    filled: dict[str, Tensor] = {}
    for names in groups.values():
        present = [name for name in names if name in stored]
        for name in present:
            _check_fit(path, name, stored[name], state[name])
        array = _dense(stored[present[0]])
        for name in present[1:]:
            if stored[name] is not stored[present[0]] and not np.array_equal(
                _dense(stored[name]), array, equal_nan=True
            ):
                raise FormatError(f"{os.fspath(path)} has different {present[0]} and {name}, which the model shares.")
        filled |= dict.fromkeys(names, torch.from_numpy(array))
    model.load_state_dict(filled)
    return into


def _serialize(
    model: nn.Module,
    values: Values,
    targets: Selection,
    ignore: Selection,
    metadata: Mapping[str, str] | None,
) -> bytes:
    check_text(metadata or {})
    for key in metadata or {}:
        if key.partition(".")[0] == VERSION_KEY:
            raise UsageError(f"The metadata key {key!r} is one of the format's own; choose one without 'isogrid'.")
    model = unwrapped(model)
    counted = {target.name for target in weight_targets(model, targets, ignore)}
    axes = {target.name: target.output_axis for target in weight_targets(model, embeddings=True)}
    rounded = {}
    for result in rounded_weights(weight_targets(model, targets, ignore, embeddings=True), values):
        axes[result.target.name] = result.target.output_axis
        rounded[result.target.name] = result.array
    parameters = {name for name, _ in model.named_parameters()}
    first_names = _first_names(model)
    stored: dict[str, Stored] = {}
    roles: dict[str, tuple[Role, Role]] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise UnsupportedError(f"{name} is a {type(tensor).__name__}; only tensors go into a safetensors file.")
        first = first_names.get(name, name)
        if first in stored:
            stored[name] = stored[first]
            continue
        array = to_numpy(tensor, name)
        true_role = Role.TARGET if name in counted else Role.PARAMETER if name in parameters else Role.BUFFER
        roles[name] = (usual_role(name, tensor.is_floating_point(), tensor.dim()), true_role)
        if not tensor.is_floating_point() or name not in parameters:
            stored[name] = array
        elif tensor.dim() < 2:
            stored[name] = array if array.dtype == np.float16 else to_float32(array, name=name)
        else:
            weight = rounded[name] if name in rounded else to_float32(array, name=name)
            stored[name] = smallest(weight, axes.get(name, 0))
    return serialize(stored, {**(metadata or {}), **role_metadata(roles)})


def _first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer, mapped to the first name of the same object."""
    first: dict[int, str] = {}
    names = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            names[name] = first.setdefault(id(tensor), name)
    return names


def _check_fit(path: str | os.PathLike[str], name: str, stored: Stored, wanted: object) -> None:
    if not isinstance(wanted, Tensor):
        raise UnsupportedError(f"{name} of the model is a {type(wanted).__name__}; only tensors can be loaded.")
    if tuple(stored.shape) != tuple(wanted.shape):
        raise FormatError(
            f"{os.fspath(path)} does not fit the model: {name} has shape {tuple(stored.shape)} in the file and "
            f"{tuple(wanted.shape)} in the model."
        )
    floating = isinstance(stored, SparseTensor) or np.issubdtype(stored.dtype, np.floating)
    if floating != wanted.is_floating_point():
        kinds = ("floating point", "integer") if floating else ("integer", "floating point")
        raise FormatError(f"{os.fspath(path)} does not fit the model: {name} is {kinds[0]} there and {kinds[1]} here.")


def _dense(stored: Stored) -> NDArray[Any]:
    return stored.to_dense() if isinstance(stored, SparseTensor) else stored


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
