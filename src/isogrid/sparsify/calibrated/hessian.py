"""The Hessian of a layer's squared output error: damped and factorised."""

from __future__ import annotations

import torch
from torch import Tensor

WIDE_UP_TO = 1024
"""Columns up to which matrices are factorised in float64: there it costs next to nothing."""

_DEAD = 1e-6
"""The share of the damping that an input which is always zero gets."""


def damped(moments: Tensor, damping: float) -> Tensor:
    """`moments` ``[groups, K, K]`` with `damping` times their mean diagonal added to the diagonal.

    An input that is always zero gets next to nothing, so that its weights are the first to go; where all of a group's
    are, it becomes the identity: then only the weights themselves count.

    >>> damped(torch.eye(2)[None], 0.5)[0].tolist()
    [[1.5, 0.0], [0.0, 1.5]]
    """
    hessian = moments.clone()
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(dim=-1, keepdim=True)
    share = torch.where(diagonal > 0, damping, _DEAD * damping)
    diagonal.add_(torch.where(mean > 0, share * mean, 1))
    return hessian


def widened(matrix: Tensor) -> Tensor:
    """`matrix` in the type in which it is factorised."""
    return matrix.double() if matrix.shape[-1] <= WIDE_UP_TO else matrix


def upper_factor(moments: Tensor, damping: float) -> Tensor:
    """The upper triangular ``U`` with ``H = U @ U.T``, where H is `damped`; of the type of `moments`.

    Its inverse is the Cholesky factor of the inverse Hessian, ``inv(H) = inv(U).T @ inv(U)``, on which SparseGPT is
    built; no inverse needs to be taken.  Where rounding makes H indefinite, it is factorised in float64, then with ten
    times the damping and so on.

    >>> moments = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
    >>> factor = upper_factor(moments, 1e-6)[0]
    >>> torch.allclose(factor @ factor.T, moments[0], atol=1e-4), float(factor[1, 0])
    (True, 0.0)
    """
    hessian = widened(damped(moments, damping))
    while True:
        # Cholesky from the last column to the first.
        lower, failed = torch.linalg.cholesky_ex(hessian.flip(-2, -1))
        if not bool(failed.any()):
            factor: Tensor = lower.flip(-2, -1).to(moments.dtype)
            return factor
        if hessian.dtype != torch.float64:
            hessian = hessian.double()
        else:
            damping *= 10
            hessian = damped(moments.double(), damping)
