"""Wanda: pruning by weights and activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from isogrid.patterns import Pattern
from isogrid.sparsify.calibrated.method import Calibrated, Problem
from isogrid.sparsify.method import register_method


@register_method("wanda")
@dataclass(frozen=True)
class Wanda(Calibrated):
    """Wanda: weights that are small times the norm of their input become zero, and no other changes.

    The score is ``|W_ij| ||X_j||_2`` over all rows of the calibration data, compared within each output (Sun et al.
    2023, arXiv:2306.11695, eq. 1 and section 3): the default pattern is ``"fan_in"``, the same number of weights for
    every output.

    Attributes:
        pattern: any; ``"unstructured"`` compares within the whole layer, groups of weights by their summed scores.
        allocation: how the sparsity is shared out over layers; ``"uniform"`` as published.

    >>> import torch
    >>> from isogrid.sparsify import prune
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> _ = prune(layer, Wanda(sparsity=0.5), data=[torch.tensor([[3.0, 1.0]])])
    >>> layer.weight.tolist()
    [[1.0, 0.0]]
    """

    pattern: Pattern | str = "fan_in"

    diagonal: ClassVar[bool] = True

    def prepare(self, moments: Tensor) -> Tensor:
        return moments.sqrt_().unsqueeze(1)

    def solve(self, problem: Problem) -> tuple[Tensor, Tensor]:
        mask = problem.best(problem.weight.abs() * problem.prepared, self.target_pattern)
        return problem.weight * mask, mask
