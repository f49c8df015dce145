"""Low-rank adapters on sparse weights: what an adapter may add without bringing zeros back to life."""

from __future__ import annotations

import torch
from torch import Tensor

from isogrid.errors import UsageError


def masked_delta(down: Tensor, up: Tensor, mask: Tensor, *, scale: float = 1.0) -> Tensor:
    """``m * (scale * up @ down)``: the part of a low-rank update that falls on active weights.

    Added to a sparse weight in the forward pass it makes training see the very weights that merging will give, so that
    merging loses neither a zero nor accuracy.  This is SparsePEFT of SQFT (Munoz et al. 2024, arXiv:2410.03750,
    section 3); LoRA itself (Hu et al. 2021, arXiv:2106.09685, eq. 3) has no mask, and its merged weight is dense.

    Args:
        down: the adapter's first matrix, ``[rank, inputs]``.
        up: the adapter's second matrix, ``[outputs, rank]``.
        mask: boolean ``[outputs, inputs]``, True = active.
        scale: what multiplies the update, ``alpha / rank`` in LoRA.

    Returns:
        ``[outputs, inputs]`` of the adapter's dtype, differentiable by both matrices; exactly zero at pruned places,
        also where an adapter that diverged holds NaN or infinity.

    Raises:
        UsageError: shapes that do not belong together, or a mask that is not boolean.

    >>> mask = torch.tensor([[True, False, True], [False, False, True]])
    >>> masked_delta(torch.ones(1, 3), torch.tensor([[1.0], [2.0]]), mask, scale=0.5)
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 0.0000, 1.0000]])
    """
    fits = down.dim() == up.dim() == 2 and up.shape[1] == down.shape[0]
    if not fits or mask.dtype != torch.bool or mask.shape != (up.shape[0], down.shape[1]):
        raise UsageError(
            f"masked_delta() got down {tuple(down.shape)}, up {tuple(up.shape)} and a {mask.dtype} mask "
            f"{tuple(mask.shape)}; accepted are [rank, inputs], [outputs, rank] and a boolean [outputs, inputs]."
        )
    return mask_delta(scale * (up @ down), mask)


def mask_delta(delta: Tensor, mask: Tensor) -> Tensor:
    """`delta` where `mask` (of its shape, True = active) is True, and exactly zero elsewhere; differentiable.

    >>> mask_delta(torch.tensor([1.0, float("nan")]), torch.tensor([True, False]))
    tensor([1., 0.])
    """
    return torch.where(mask, delta, torch.zeros((), dtype=delta.dtype, device=delta.device))
