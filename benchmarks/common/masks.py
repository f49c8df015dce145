"""Which weights are zero."""

from __future__ import annotations

import torch
from torch import Tensor


def random_mask(shape: torch.Size | tuple[int, ...], sparsity: float, seed: int) -> Tensor:
    """Ones and zeros: exactly that share of zeros, at places drawn at random."""
    count = 1
    for size in shape:
        count *= size
    zeros = round(sparsity * count)
    if zeros == 0:
        return torch.ones(shape)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    # Ties are possible between 24-bit numbers, so the places are taken, not a threshold.
    mask = torch.ones(count)
    mask[scores.topk(zeros, largest=False, sorted=False).indices] = 0
    return mask.reshape(shape)
