"""The weights of a Keras model as arrays: by name, rounded, counted, and as the bytes of a sparse safetensors file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from isogrid.errors import UnsupportedError
from isogrid.formats.numbers import Values, parse_values, round_values, to_float32
from isogrid.formats.roles import Role, role_metadata, usual_role
from isogrid.formats.safetensors import Tensor, serialize, smallest
from isogrid.integrations.keras.targets import Target, all_candidates, find_targets, names_of

Selection = str | Sequence[str] | None


@dataclass(frozen=True, eq=False)
class Weight:
    """A variable of a model.

    Attributes:
        name: its place in the model, unique, and that of its target where it is one.
        variable: itself.
        target: how it is seen as a matrix; None for biases and others of fewer than two axes.
        learned: whether training moves it (a moving average is not learned).
    """

    name: str
    variable: Any
    target: Target | None
    learned: bool


def weights_of(model: Any) -> list[Weight]:
    """All weights of a built `model`, in its own order, each once."""
    targets = {id(target.variable): target for target in all_candidates(model)}
    learned = {id(v) for layer in model._flatten_layers() for v in layer._trainable_variables}
    names = names_of(model)
    return [
        Weight(names[id(variable)], variable, targets.get(id(variable)), id(variable) in learned)
        for variable in model.weights
    ]


def read(model: Any) -> dict[str, NDArray[Any]]:
    """Copies of all weights by name, in the shapes of the variables."""
    return {weight.name: np.array(keras.ops.convert_to_numpy(weight.variable)) for weight in weights_of(model)}


def write(model: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Assign what `read` gave, of this model or of a copy."""
    for weight, array in zip(weights_of(model), arrays.values(), strict=True):
        weight.variable.assign(array)


def quantize(model: Any, weights: Values = "int8", targets: Selection = None, ignore: Selection = None) -> None:
    """Round the weights of a built `model` in place to what a file with such numbers can hold.

    ``"int8"`` is symmetric with one scale per output unit, ``"fp16"`` the nearest half (the rules are in
    `isogrid.formats.numbers`), ``"fp32"`` changes nothing.  Variables keep their dtypes, and zeros stay zero.

    Args:
        model: changed in place, or not at all when there is an error.
        weights: number format.
        targets, ignore: names or regular expressions, see `find_targets`; without `targets` embeddings are rounded too.

    Raises:
        UsageError: an unknown number format.
        TargetError: nothing to round.
        TrainingError: a weight is not finite; the message names it.
        UnsupportedError: a weight is beyond the number format, or int8 weights are asked of half precision variables.

    >>> from isogrid.formats.numbers import exact_values
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False, name="dense")])
    >>> quantize(model, "int8")
    >>> kernel = model.layers[0].get_weights()[0]
    >>> [exact_values(kernel[:, unit][None]) for unit in (0, 1)]
    [('fp32', 'int8'), ('fp32', 'int8')]
    """
    parse_values(weights)
    rounded = []
    for target in find_targets(model, targets, ignore, embeddings=True):
        dtype = keras.backend.standardize_dtype(target.variable.dtype)
        if weights == "int8" and dtype in ("float16", "bfloat16"):
            raise UnsupportedError(f"{target.name} is {dtype}, which cannot hold int8 weights exactly; use float32.")
        rounded.append((target, round_values(target.read(target.variable), weights, name=target.name)))
    if weights != "fp32":
        for target, array in rounded:
            target.write(target.variable, array)


@contextlib.contextmanager
def rounded_to(model: Any, values: Values, targets: Selection, ignore: Selection) -> Iterator[None]:
    """The model with rounded weights; afterwards it is as it was."""
    before = read(model)
    try:
        quantize(model, values, targets, ignore)
        yield
    finally:
        write(model, before)


@dataclass(frozen=True)
class Census:
    """Real zeros and sizes of a model, and the file that holds it.

    ``sparsity`` is of the targets, the other counts of all that is learned; ``file`` are the bytes of a safetensors
    file, in which targets stand as PyTorch stores them (outputs first).
    """

    sparsity: float
    sparsity_of_model: float
    nonzeros: int
    parameters: int
    file: bytes


def census(model: Any, targets: Selection = None, ignore: Selection = None) -> Census:
    """Count a built `model` and write it down, every weight in the fewest bytes that hold it exactly.

    Raises:
        TargetError: nothing is a target.
    """
    counted = {id(target.variable) for target in find_targets(model, targets, ignore)}
    stored: dict[str, Tensor] = {}
    roles: dict[str, tuple[Role, Role]] = {}
    sizes = {Role.TARGET: [0, 0], Role.PARAMETER: [0, 0], Role.BUFFER: [0, 0]}
    for weight in weights_of(model):
        array = np.asarray(keras.ops.convert_to_numpy(weight.variable))
        if array.dtype.kind not in "biuf":  # bfloat16 is no kind that numpy knows
            array = array.astype(np.float32)
        role = Role.PARAMETER if weight.learned else Role.BUFFER
        if id(weight.variable) in counted:
            role = Role.TARGET
        if role is not Role.BUFFER and array.dtype.kind == "f":
            array = to_float32(array, name=weight.name)
            if weight.target is not None:
                stored[weight.name] = smallest(weight.target.view.canonical(array))
        stored.setdefault(weight.name, array)
        roles[weight.name] = (usual_role(weight.name, array.dtype.kind == "f", len(stored[weight.name].shape)), role)
        sizes[role][0] += int(np.count_nonzero(array))
        sizes[role][1] += array.size
    (alive, size), (others, rest) = sizes[Role.TARGET], sizes[Role.PARAMETER]
    return Census(
        sparsity=1 - alive / size if size else 0.0,
        sparsity_of_model=1 - (alive + others) / (size + rest),
        nonzeros=alive + others,
        parameters=size + rest,
        file=serialize(stored, role_metadata(roles)),
    )
