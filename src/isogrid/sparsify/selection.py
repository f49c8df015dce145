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
from isogrid.scores import Score
from isogrid.sparsify.state import SparseLayer, SparseState

Scores = Mapping[str, npt.NDArray[Any]]


def check_pattern(state: SparseState, pattern: Pattern) -> None:
    """Raise ``PatternError`` naming the first layer that the pattern does not fit."""
    for layer in state.layers:
        try:
            pattern.check(layer.target.shape)
        except PatternError as problem:
            raise PatternError(f"{layer.name} does not fit the pattern; leave it out with ignore=. {problem}") from None


def score_layer(state: SparseState, layer: SparseLayer, score: Score) -> npt.NDArray[Any]:
    """The score of each of a layer's weights, in canonical view."""
    gradient = layer.to_array(layer.gradient) if layer.gradient is not None else None
    return score(layer.to_array(layer.weight), gradient=gradient, rng=state.rng("score", layer))


def select(
    state: SparseState, scores: Scores, sparsity: float, pattern: Pattern, allocation: Allocation
) -> dict[str, Tensor]:
    """Masks that keep the highest scores at that sparsity, shared out over the layers by ``allocation``.

    What is pruned stays pruned.  A pattern that implies its sparsity (N:M) takes every layer to the same one, and to no
    more than it implies.
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
