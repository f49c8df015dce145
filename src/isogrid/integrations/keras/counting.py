"""Exact counts of the zeros that a Keras model holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from isogrid.integrations.keras.targets import Target, find_targets


@dataclass(frozen=True)
class SparsityReport:
    """Exact counts of real zeros.

    ``sparsity`` is of the targets, ``layers`` that of each; ``sparsity_of_model``, ``nonzeros`` and ``parameters`` are
    of all that the model's layers learn, shared weights counted once.
    """

    sparsity: float
    sparsity_of_model: float
    nonzeros: int
    parameters: int
    layers: dict[str, float]


def measure(
    model: Any,
    targets: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    *,
    embeddings: bool = False,
) -> SparsityReport:
    """Count the zeros of a built `model`; see `find_targets` for the arguments.

    Raises:
        TargetError, UsageError: as `find_targets`.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, use_bias=False, name="dense")])
    >>> model.layers[0].set_weights([np.array([[1.0, 0], [0, 0], [2, 3], [0, 4]])])
    >>> measure(model)
    SparsityReport(sparsity=0.5, sparsity_of_model=0.5, nonzeros=4, parameters=8, layers={'dense/kernel': 0.5})
    """
    return count(model, find_targets(model, targets, ignore, embeddings=embeddings))


def count(model: Any, targets: Sequence[Target]) -> SparsityReport:
    """`measure`, for targets that are known."""
    learned = {id(v): v for layer in model._flatten_layers() for v in layer._trainable_variables}
    parameters = sum(_size(variable) for variable in learned.values())
    nonzeros = sum(_nonzeros(variable) for variable in learned.values())
    sizes = {target.name: _size(target.variable) for target in targets}
    alive = {target.name: _nonzeros(target.variable) for target in targets}
    return SparsityReport(
        sparsity=1 - sum(alive.values()) / max(1, sum(sizes.values())),
        sparsity_of_model=1 - nonzeros / max(1, parameters),
        nonzeros=nonzeros,
        parameters=parameters,
        layers={name: 1 - alive[name] / max(1, size) for name, size in sizes.items()},
    )


def _size(variable: Any) -> int:
    return int(np.prod(tuple(variable.shape)))


def _nonzeros(variable: Any) -> int:
    return int(np.count_nonzero(keras.ops.convert_to_numpy(variable)))
