"""Pruning a trained Keras model at once, without an optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isogrid.checks import check_whole
from isogrid.errors import UsageError
from isogrid.integrations.keras.counting import SparsityReport, count
from isogrid.integrations.keras.methods.oneshot import OneShot
from isogrid.integrations.keras.state import SparseState
from isogrid.integrations.keras.targets import find_targets


def prune(
    model: Any,
    method: OneShot,
    *,
    targets: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    embeddings: bool = False,
    seed: int = 0,
) -> SparsityReport:
    """Prune a trained, built `model` in place.  Zeros that it already holds stay zero.

    Args:
        model: any Keras model; it is changed.
        method: `OneShot`.
        targets, ignore: names or regular expressions, see `find_targets`.
        embeddings: whether embeddings are targets without being named.
        seed: seeds every random choice.

    Raises:
        UsageError: another method, which belongs into `Sparsify`.
        TargetError, PatternError, TrainingError: nothing to prune, a pattern that does not fit, weights not finite.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(4)])
    >>> prune(model, OneShot(sparsity=0.75)).sparsity
    0.75
    """
    if not isinstance(method, OneShot):
        raise UsageError(
            f"prune() got {method!r}; accepted is OneShot(sparsity=0.5), for other methods belong into Sparsify."
        )
    check_whole("prune()", "seed", seed, least=0)
    found = find_targets(model, targets, ignore, embeddings=embeddings)
    state = SparseState(found, method, total_steps=1, seed=seed)
    state.adopt_zeros()
    method.begin(state)
    return count(model, found)
