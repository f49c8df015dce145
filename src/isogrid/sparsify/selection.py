"""From scores to masks, for the layers of a training: `isogrid.selection` on tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isogrid.allocation import Allocation
from isogrid.patterns import Pattern
from isogrid.scores import Score, Statistics
from isogrid.selection import select as select_arrays
from isogrid.sparsify.state import SparseLayer, SparseState

Scores = Mapping[str, npt.NDArray[Any]]


def score_layer(
    state: SparseState, layer: SparseLayer, score: Score, known: Statistics | None = None
) -> npt.NDArray[Any]:
    """The score of each of a layer's weights, in canonical view.

    Args:
        state, layer, score: what is scored by what.
        known: what the score needs, in canonical view; None takes it from ``layer.gradient``.
    """
    if known is None:
        known = step_statistics(layer) if score.needs else {}
    return score(layer.to_array(layer.weight), rng=state.rng("score", layer), **known)


def step_statistics(layer: SparseLayer) -> dict[str, npt.NDArray[Any]]:
    """`STEP_STATISTICS` of ``layer.gradient``, which is zero where there is none: the batch did not reach the layer."""
    gradient = layer.to_array(torch.zeros_like(layer.weight) if layer.gradient is None else layer.gradient)
    return {"gradient": gradient, "squared_gradient": np.square(gradient)}


def select(
    state: SparseState, scores: Scores, sparsity: float, pattern: Pattern, allocation: Allocation
) -> dict[str, Tensor]:
    """Masks that keep the highest scores at that sparsity, see `isogrid.selection.select`."""
    held = {layer.name: layer.to_array(layer.mask) for layer in state.layers}
    masks = select_arrays(held, scores, sparsity, pattern, allocation)
    return {layer.name: layer.from_array(masks[layer.name]) for layer in state.layers}
