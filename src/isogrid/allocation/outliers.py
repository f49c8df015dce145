"""Outlier-weighed layer-wise sparsity: layers with more outliers among their scores stay denser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from isogrid.allocation.base import Allocation, Layer, largest_remainder, layer_scores
from isogrid.errors import UsageError
from isogrid.patterns import Pattern, active_count


@dataclass(frozen=True)
class OWL(Allocation):
    """Outlier-weighed layer-wise sparsity: density follows the share of a layer's scores that stick out.

    ``D_l`` is the share of scores in layer l above `m` times the layer's mean.  From the least to the largest ``D_l``
    the densities rise linearly over a range of ``2 lam``, shifted so that the mean over all weights is the density
    asked for; what would then lie more than `lam` away from it is held there, and the shift makes up for it.  So each
    layer's sparsity is within ``[S - lam, S + lam]`` and their mean, weighted by size, is S: exact rational arithmetic
    rounded by largest remainder, as far as the pattern's steps allow.

    Meant for scores such as `Wanda` and for sparsities about one half to 0.8.  Negative scores count as zero.  A layer
    is one weight here; the published code shares one density within each transformer block.

    Attributes:
        m: how many times the mean an outlier is.
        lam: how far a layer's sparsity may be from that of the whole.

    Raises:
        UsageError: `m` is not a positive number, or `lam` not one from 0 to 1.

    Source: Yin et al. 2023, "Outlier weighed layerwise sparsity (OWL)", arXiv:2310.05175, section 3.

    >>> plain, spiky = np.ones((10, 10)), np.ones((10, 10))
    >>> spiky[:, 0] = 100
    >>> OWL().allocate([Layer("plain", (10, 10), plain), Layer("spiky", (10, 10), spiky)], 0.5)
    {'plain': 42, 'spiky': 58}
    """

    m: float = 5.0
    lam: float = 0.08

    name: ClassVar[str] = "owl"
    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.m) and self.m > 0):
            raise UsageError(f"OWL got m={self.m!r}; accepted is a number > 0.")
        if not 0 <= self.lam <= 1:
            raise UsageError(f"OWL got lam={self.lam!r}; accepted is a number from 0 to 1.")

    def share(self, layers: Sequence[Layer], sparsity: float, pattern: Pattern) -> list[int]:
        if not layers:
            return []
        outliers = [self.outliers(layer) for layer in layers]
        budget = active_count(sum(layer.size for layer in layers), sparsity)
        least, range_ = min(outliers), max(outliers) - min(outliers)
        # As decimal text: 0.08 is meant, not the binary number next to it.
        lam = Fraction(str(self.lam))
        raised = [2 * lam * (share - least) / range_ if range_ else Fraction(0) for share in outliers]
        ideal = _level(raised, [layer.size for layer in layers], budget, lam)
        return largest_remainder(ideal, [pattern.grid(layer.shape) for layer in layers], budget)

    def outliers(self, layer: Layer) -> Fraction:
        """``D_l``, the share of a layer's scores above `m` times their mean.

        >>> OWL(m=2).outliers(Layer("a", (4,), np.array([1.0, 1.0, 1.0, 9.0])))
        Fraction(1, 4)
        """
        scores = np.maximum(layer_scores(layer), 0)
        bound = self.m * float(scores.mean(dtype=np.float64))
        return Fraction(int(np.count_nonzero(scores > bound)), layer.size)


def _level(raised: Sequence[Fraction], sizes: Sequence[int], budget: int, lam: Fraction) -> list[Fraction]:
    """Weights of each layer at the densities `raised` plus one shift, so that together they are `budget`.

    No density is further than `lam` from the mean.
    """
    mean = Fraction(budget, sum(sizes))
    low, high = max(Fraction(0), mean - lam), min(Fraction(1), mean + lam)

    def weights(shift: Fraction) -> list[Fraction]:
        return [size * min(max(density + shift, low), high) for size, density in zip(sizes, raised, strict=True)]

    # Their sum rises linearly between the shifts at which a layer leaves one bound or reaches the other.
    bends = sorted({bound - density for density in raised for bound in (low, high)})
    left, right = 0, len(bends) - 1
    while right - left > 1:
        middle = (left + right) // 2
        if sum(weights(bends[middle])) <= budget:
            left = middle
        else:
            right = middle
    below, above = sum(weights(bends[left])), sum(weights(bends[right]))
    shift = bends[left]
    if above > below:
        shift += (bends[right] - bends[left]) * (budget - below) / (above - below)
    return weights(shift)
