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
    """Scores of a layer's weights; pruned ones rank below all active ones, so that what is pruned stays pruned."""
    gradient = layer.to_array(layer.gradient) if layer.gradient is not None else None
    values = score(layer.to_array(layer.weight), gradient=gradient, rng=state.rng("score", layer))
    mask = layer.to_array(layer.mask)
    return keep_pruned_last(values, mask)


def keep_pruned_last(values: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """``values`` with the inactive ones moved below the smallest active one."""
    if values.size == 0 or mask.all():
        return values
    lowest = float(values.min())
    return np.where(mask, values, np.asarray(lowest - 1 - abs(lowest), dtype=values.dtype))


def select(
    state: SparseState, scores: Scores, sparsity: float, pattern: Pattern, allocation: Allocation
) -> dict[str, Tensor]:
    """Masks that keep the highest scores at that sparsity, shared out over the layers by ``allocation``.

    A pattern that implies its sparsity (N:M) takes every layer to the same one.
    """
    if pattern.implied_sparsity is not None:
        active = {layer.name: active_count(layer.size, sparsity) for layer in state.layers}
    else:
        layers = [
            Layer(layer.name, layer.target.shape, scores[layer.name] if allocation.needs_scores else None)
            for layer in state.layers
        ]
        active = allocation.allocate(layers, sparsity, pattern)
    return {
        layer.name: layer.from_array(pattern.mask(scores[layer.name], active[layer.name])) for layer in state.layers
    }
