"""Allocations that look at shapes only: uniform and Erdos-Renyi-kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from isogrid.allocation.base import Allocation, Layer, alike, largest_remainder
from isogrid.patterns import Pattern, active_count


@dataclass(frozen=True)
class Uniform(Allocation):
    """Every layer gets the same sparsity.  Each rounds its own count down, so the budget may not be used up.

    >>> Uniform().allocate([Layer("a", (3, 5)), Layer("b", (4, 4))], 0.5)
    {'a': 7, 'b': 8}
    """

    name: ClassVar[str] = "uniform"
    needs_scores: ClassVar[bool] = False

    def share(self, layers: Sequence[Layer], sparsity: float, pattern: Pattern) -> list[int]:
        return [alike(layer, sparsity, pattern) for layer in layers]


@dataclass(frozen=True)
class ERK(Allocation):
    """Erdos-Renyi-kernel: the density of a layer is proportional to ``sum(shape) / prod(shape)``.

    Layers whose density would pass 1 are dense, and the factor of the others is computed again until none passes.  A
    linear layer has no kernel axes, so there this is the Erdos-Renyi rule itself.  Counts are exact rational
    arithmetic rounded by largest remainder: the whole budget is used, as far as the pattern's steps allow.

    Source: Evci et al. 2020, "Rigging the lottery", arXiv:1911.11134, section 3; Mocanu et al. 2018, arXiv:1707.04780,
    for layers without kernels.

    >>> ERK().allocate([Layer("small", (4, 4)), Layer("large", (100, 100))], 0.5)
    {'small': 16, 'large': 4992}
    """

    name: ClassVar[str] = "erk"
    needs_scores: ClassVar[bool] = False

    def share(self, layers: Sequence[Layer], sparsity: float, pattern: Pattern) -> list[int]:
        budget = active_count(sum(layer.size for layer in layers), sparsity)
        ideal = [Fraction(layer.size) for layer in layers]
        sparse = set(range(len(layers)))
        while sparse:
            # density * size = factor * sum(shape) / prod(shape) * size = factor * sum(shape); a scalar has no axes.
            spans = {i: max(1, sum(layers[i].shape)) for i in sparse}
            dense = sum(layer.size for i, layer in enumerate(layers) if i not in sparse)
            factor = Fraction(budget - dense, sum(spans.values()))
            passing = {i for i in sparse if factor * spans[i] > layers[i].size}
            if not passing:
                for i, span in spans.items():
                    ideal[i] = factor * span
                break
            sparse -= passing
        return largest_remainder(ideal, [pattern.grid(layer.shape) for layer in layers], budget)
