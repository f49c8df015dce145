"""From scores to masks: the one way in which every method turns what it prefers into what it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from isogrid.allocation import Allocation, Layer
from isogrid.errors import PatternError
from isogrid.patterns import Pattern, active_count
from isogrid.scores import Score, Statistics
from isogrid.sparsify.state import SparseLayer, SparseState

Scores = Mapping[str, npt.NDArray[Any]]


def check_pattern(state: SparseState, pattern: Pattern) -> None:
    """Raise ``PatternError`` naming the first layer that the pattern does not fit."""
    for layer in state.layers:
        try:
            pattern.check(layer.target.shape)
        except PatternError as problem:
            raise PatternError(f"{layer.name} does not fit the pattern; leave it out with ignore=. {problem}") from None


def score_layer(
    state: SparseState, layer: SparseLayer, score: Score, known: Statistics | None = None
) -> npt.NDArray[Any]:
    """The score of each of a layer's weights, in canonical view.

    Args:
        state, layer, score: what is scored by what.
        known: what the score needs, in canonical view; None takes it from ``layer.gradient``, where there is one.
    """
    if known is None:
        known = step_statistics(layer)
    return score(layer.to_array(layer.weight), rng=state.rng("score", layer), **known)


STEP_STATISTICS = frozenset({"gradient", "squared_gradient"})
"""What is known of a layer within a training step, the step's batch being all the data."""


def step_statistics(layer: SparseLayer) -> dict[str, npt.NDArray[Any]]:
    """`STEP_STATISTICS` of ``layer.gradient``; nothing where there is none."""
    if layer.gradient is None:
        return {}
    gradient = layer.to_array(layer.gradient)
    return {"gradient": gradient, "squared_gradient": np.square(gradient)}


def select(
    state: SparseState, scores: Scores, sparsity: float, pattern: Pattern, allocation: Allocation
) -> dict[str, Tensor]:
    """Masks that keep the highest scores at that sparsity, shared out over the layers by ``allocation``.

    What is pruned stays pruned.  A pattern that implies its sparsity (N:M) takes every layer to the same one, and to no
    more than it implies.

    A layer may lose its last weight, for scores are compared as they are.  Masks hold such a layer at zero; a file of
    the zeros does not, for an all-zero layer read back is not a mask.  Allocations that keep something of each layer
    are uniform, erk and lamp, as long as there is a weight for each.
    """
    held = {layer.name: layer.to_array(layer.mask) for layer in state.layers}
    ranked = {name: _pruned_last(np.asarray(scores[name]), mask, pattern) for name, mask in held.items()}
    if pattern.implied_sparsity is not None:
        sparsity = min(sparsity, pattern.implied_sparsity)
        active = {layer.name: active_count(layer.size, sparsity) for layer in state.layers}
    else:
        layers = [
            Layer(layer.name, layer.target.shape, ranked[layer.name] if allocation.needs_scores else None)
            for layer in state.layers
        ]
        active = allocation.allocate(layers, sparsity, pattern)
    return {
        layer.name: layer.from_array(pattern.mask(ranked[layer.name], active[layer.name]) & held[layer.name])
        for layer in state.layers
    }


def _pruned_last(values: npt.NDArray[Any], mask: npt.NDArray[np.bool_], pattern: Pattern) -> npt.NDArray[Any]:
    """`values` with pruned weights counting for nothing, and groups of which all is pruned below all others."""
    if values.size == 0 or mask.all():
        return values
    counted = np.where(mask, values, np.zeros((), dtype=values.dtype))
    gone = ~pattern.spread(np.asarray(pattern.fold(mask).any(axis=2)), mask.shape)
    lowest = float(counted.min())
    return np.where(gone, np.asarray(lowest - 1 - abs(lowest), dtype=values.dtype), counted)
