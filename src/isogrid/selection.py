"""From scores to masks: the one way in which every method turns what it prefers into what it keeps."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.allocation import Allocation, Layer
from isogrid.patterns import Pattern, active_count


def generator(seed: int, step: int, purpose: str, name: str = "") -> np.random.Generator:
    """Random numbers that depend on nothing but the seed, the step, the purpose and a layer's name.

    There is no state to save, and every rank draws the same numbers.
    """
    return np.random.default_rng([seed, step, zlib.crc32(f"{purpose}/{name}".encode())])


def share_out(layers: Sequence[Layer], sparsity: float, pattern: Pattern, allocation: Allocation) -> dict[str, int]:
    """The most weights that may stay of each layer.

    A pattern that implies its sparsity (N:M) takes every layer to the same one, and to no more than it implies; else
    ``allocation`` shares out, for which layers have scores if it needs them.

    >>> from isogrid.allocation import Uniform
    >>> from isogrid.patterns import NofM
    >>> share_out([Layer("w", (2, 4))], 0.25, NofM(2, 4), Uniform())
    {'w': 6}
    """
    implied = pattern.implied_sparsity
    if implied is None:
        return allocation.allocate(layers, sparsity, pattern)
    return {layer.name: active_count(layer.size, min(sparsity, implied)) for layer in layers}


def select(
    held: Mapping[str, NDArray[np.bool_]],
    scores: Mapping[str, NDArray[Any]],
    sparsity: float,
    pattern: Pattern,
    allocation: Allocation,
) -> dict[str, NDArray[np.bool_]]:
    """Masks that keep the highest scores at that sparsity, shared out over the layers by ``allocation``.

    What is pruned stays pruned.

    A layer may lose its last weight, for scores are compared as they are.  Masks hold such a layer at zero; a file of
    the zeros does not, for an all-zero layer read back is not a mask.  Allocations that keep something of each layer
    are erk and lamp, as long as there is a weight for each, and uniform, where the layer's own share comes to a weight.

    Args:
        held: the masks so far (True = active), by name, in canonical view and in the layers' order.
        scores: one number a weight, in the same view; higher is kept.
        sparsity: of all layers together.
        pattern, allocation: the shape of the zeros, and how they are shared out.

    >>> from isogrid.allocation import Global
    >>> from isogrid.patterns import Unstructured
    >>> masks = select({"w": np.ones((1, 4), bool)}, {"w": np.array([[3.0, 1, 2, 4]])}, 0.5, Unstructured(), Global())
    >>> masks["w"]
    array([[ True, False, False,  True]])
    """
    ranked = {name: pruned_last(np.asarray(scores[name]), mask, pattern) for name, mask in held.items()}
    layers = [Layer(name, mask.shape, ranked[name] if allocation.needs_scores else None) for name, mask in held.items()]
    active = share_out(layers, sparsity, pattern, allocation)
    return {name: pattern.mask(ranked[name], active[name]) & mask for name, mask in held.items()}


def pruned_last(values: NDArray[Any], mask: NDArray[np.bool_], pattern: Pattern) -> NDArray[Any]:
    """`values` with pruned weights counting for nothing, and groups of which all is pruned below all others.

    >>> from isogrid.patterns import Unstructured
    >>> pruned_last(np.array([[3.0, 1.0, 2.0]]), np.array([[True, False, True]]), Unstructured())
    array([[ 3., -1.,  2.]])
    """
    if values.size == 0 or mask.all():
        return values
    counted = np.where(mask, values, np.zeros((), dtype=values.dtype))
    gone = ~pattern.spread(np.asarray(pattern.fold(mask).any(axis=2)), mask.shape)
    lowest = float(counted.min())
    return np.where(gone, np.asarray(lowest - 1 - abs(lowest), dtype=values.dtype), counted)
