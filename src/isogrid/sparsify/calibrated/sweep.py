"""The sweep of the optimal brain surgeon over the columns of a weight: SparseGPT's inner loop.

SparseGPT removes weights column by column and corrects the columns that follow with rows of ``V``, the upper Cholesky
factor of the inverse Hessian, ``inv(H) = V.T @ V`` (Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1): removing
``w_j`` costs ``(w_j / V_jj)^2`` and moves column k by ``-w_j V_jk / V_jj``.

Here ``V`` is never formed, but for blocks on its diagonal.  With ``H = U @ U.T`` it is ``inv(U)``, and all that was
removed left of a block B can be told from ``D = W - Q``, the dense weight less the pruned and corrected one:

    W_B + (D @ U)_B @ inv(U_BB)

is what the published updates make of the block.  So a block costs one product with what lies left of it, half the work
of updating all that lies right, and one factorisation takes the place of three.  Inside a block the columns are halved
again and again until one is left, so that there too nearly all work is matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isogrid.sparsify.calibrated.choice import Choice


def sweep(weight: Tensor, active: Tensor, factor: Tensor, choice: Choice, block_size: int) -> tuple[Tensor, Tensor]:
    """Prune ``[groups, outputs, K]`` and correct what is left.

    Args:
        weight: zero where it is not active.
        active: bool; nothing else can stay.
        factor: the upper triangular ``U``, ``[groups, K, K]``, see `isogrid.sparsify.calibrated.hessian.upper_factor`.
        choice: which weights stay.
        block_size: columns that are corrected together.

    Returns:
        The pruned weight and its mask.
    """
    return _Sweep(weight, active, factor, choice).run(block_size)


class _Sweep:
    """Works on transposed weights ``[groups, K, outputs]``, of which columns lie in one piece each."""

    def __init__(self, weight: Tensor, active: Tensor, factor: Tensor, choice: Choice) -> None:
        alone = len(weight) == 1  # then plain matrix products, which are faster than batches of one

        def drop(tensor: Tensor) -> Tensor:
            return tensor[0] if alone else tensor

        self._weight = drop(weight.mT).clone(memory_format=torch.contiguous_format)
        self._mask = drop(active.mT).clone(memory_format=torch.contiguous_format)
        self._factor, self._choice, self._shape = drop(factor), choice, weight.mT.shape

    def run(self, block_size: int) -> tuple[Tensor, Tensor]:
        width = self._choice.width
        columns, span = self._shape[1], max(width, block_size // width * width)
        difference = torch.empty_like(self._weight)
        for first in range(0, columns, span):
            behind = min(columns, first + span)
            corner = self._factor[..., first:behind, first:behind]
            ones = torch.eye(behind - first, dtype=corner.dtype, device=corner.device).expand_as(corner)
            inverse = torch.linalg.solve_triangular(corner, ones, upper=True)
            block, dense = self._weight[..., first:behind, :], difference[..., first:behind, :]
            dense.copy_(block)
            if first:
                left = self._factor[..., :first, first:behind].mT @ difference[..., :first, :]
                _add_product(block, inverse.mT, left)
            _Block(block, self._mask[..., first:behind, :], inverse, self._choice).run()
            dense -= block
        return self._weight.reshape(self._shape).mT, self._mask.reshape(self._shape).mT


class _Block:
    """Columns that are up to date with all that was removed left of them."""

    def __init__(self, weight: Tensor, mask: Tensor, inverse: Tensor, choice: Choice) -> None:
        self._weight, self._mask, self._choice = weight, mask, choice
        self._diagonal = inverse.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        self._effect = (inverse / self._diagonal).neg_().mT
        self._removed = torch.empty_like(weight)

    def run(self) -> None:
        self._choose_in(0, self._weight.shape[-2])

    def _choose_in(self, first: int, behind: int) -> None:
        """Halve until the choice is among few enough columns."""
        width = self._choice.width
        if behind - first > width:
            middle = first + (behind - first + width) // (2 * width) * width
            self._choose_in(first, middle)
            self._correct(first, middle, behind)
            self._choose_in(middle, behind)
            return
        scores = (self._weight[..., first:behind, :] / self._diagonal[..., first:behind, :]).square_()
        mask = self._mask[..., first:behind, :]
        if mask.dim() == 2:
            mask.copy_(self._choice.keep(scores, mask))
        else:  # the rows of all groups side by side
            groups, columns, rows = mask.shape
            kept = self._choice.keep(
                scores.transpose(0, 1).reshape(columns, groups * rows), mask.transpose(0, 1).reshape(columns, -1)
            )
            mask.copy_(kept.reshape(columns, groups, rows).transpose(0, 1))
        self._remove_in(first, behind)

    def _remove_in(self, first: int, behind: int) -> None:
        """Halve until one column is left, and remove what is not kept of it."""
        if behind - first == 1:
            column, removed = self._weight[..., first, :], self._removed[..., first, :]
            torch.mul(column, ~self._mask[..., first, :], out=removed)
            column -= removed
            return
        middle = (first + behind) // 2
        self._remove_in(first, middle)
        self._correct(first, middle, behind)
        self._remove_in(middle, behind)

    def _correct(self, first: int, middle: int, behind: int) -> None:
        """Let the columns from `middle` on make up for what was removed between `first` and `middle`."""
        effect = self._effect[..., middle:behind, first:middle]
        _add_product(self._weight[..., middle:behind, :], effect, self._removed[..., first:middle, :])


def _add_product(into: Tensor, left: Tensor, right: Tensor) -> None:
    """``into += left @ right``, for matrices or batches of them."""
    if into.dim() == 2:
        into.addmm_(left, right)
    else:
        into.baddbmm_(left, right)
