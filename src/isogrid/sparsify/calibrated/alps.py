"""ALPS: pruning by the alternating direction method of multipliers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isogrid.errors import UsageError
from isogrid.sparsify.calibrated.hessian import damped, widened
from isogrid.sparsify.calibrated.method import Calibrated, Problem
from isogrid.sparsify.calibrated.options import check_damping
from isogrid.sparsify.method import register_method

_UPDATE = 3
"""Iterations between two looks at how the support moves."""
_SETTLING = 30
"""Iterations after which a support that hardly moves is good enough."""
_SETTLED = 3e-4
"""Changes of the support, as a share of it, that are hardly any."""
_LARGEST_RHO = 1e6
_LEAST_RHO = 1e-4
"""The share of the first penalty below which a support that does not move is not held by the penalty."""


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """The damped second moments, scaled to a diagonal of ones: ``hessian = vectors diag(values) vectors.T``."""

    scale: Tensor
    hessian: Tensor
    values: Tensor
    vectors: Tensor

    def shifted_inverse(self, rho: float) -> Tensor:
        """``inv(hessian + rho I)``."""
        return (self.vectors / (self.values + rho).unsqueeze(-2)) @ self.vectors.mT


@register_method("alps")
@dataclass(frozen=True)
class ALPS(Calibrated):
    """ALPS: which weights stay, and their values, are found together for each layer by ADMM with an l0 constraint.

    It minimises ``||X W - X W_0||^2`` over sparse W by splitting it in a ridge regression and a projection on the
    sparse matrices, under a penalty rho that grows the faster the more the support still moves, then solves the least
    squares on the support found by preconditioned conjugate gradients (Meng et al. 2024, arXiv:2406.07831, algorithms 1
    and 2).  The closest of the calibrated methods to the dense layer, most of all at high sparsity, and the slowest:
    three products of the layer's size an iteration, and the eigenvectors of its moments once.

    Attributes:
        pattern: any.
        allocation: how the sparsity is shared out over layers; ``"uniform"`` as published.
        damping: added to the diagonal of ``X.T X``, as a fraction of its mean.
        rho: the penalty at the start, where the diagonal is scaled to ones.
        iterations: of ADMM at most; it ends when the support has settled.
        refinements: iterations of conjugate gradients.

    >>> import torch
    >>> from isogrid.sparsify import prune
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 3.0]]))
    >>> _ = prune(layer, ALPS(sparsity=0.5), data=[torch.tensor([[1.0, 1.0], [0.0, 1.0]])])
    >>> [round(w, 1) for w in layer.weight[0].tolist()]
    [0.0, 3.5]
    """

    damping: float = 0.01
    rho: float = 0.1
    iterations: int = 300
    refinements: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        check_damping(owner, self.damping)
        if not (isinstance(self.rho, float | int) and 0 < self.rho < float("inf")):
            raise UsageError(f"{owner} got rho={self.rho!r}; accepted is a number above 0.")
        for name in ("iterations", "refinements"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{owner} got {name}={value!r}; accepted is a whole number >= 1.")

    def prepare(self, moments: Tensor) -> _Spectrum:
        hessian = damped(moments, self.damping)
        scale = hessian.diagonal(dim1=-2, dim2=-1).sqrt()
        hessian /= scale.unsqueeze(-1) * scale.unsqueeze(-2)
        values, vectors = torch.linalg.eigh(widened(hessian))
        return _Spectrum(scale, hessian, values.clamp(min=0).to(moments.dtype), vectors.to(moments.dtype))

    def solve(self, problem: Problem) -> tuple[Tensor, Tensor]:
        spectrum: _Spectrum = problem.prepared
        scale = spectrum.scale.unsqueeze(1)
        dense = (problem.weight * scale).mT.contiguous()
        wanted = spectrum.hessian @ dense
        found, mask = self._admm(problem, dense, wanted)
        weight = _conjugate_gradients(spectrum.hessian, wanted, found, mask, self.refinements)
        return weight.mT / scale, mask.mT

    def _admm(self, problem: Problem, dense: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Sparse weights and their support, ``[groups, K, outputs / groups]``."""
        spectrum: _Spectrum = problem.prepared
        rho, started = self.rho, False
        mask = first = self._support(problem, dense)
        before, size = mask, int(torch.count_nonzero(mask))
        sparse, dual = dense * mask, torch.zeros_like(dense)
        inverse = spectrum.shifted_inverse(rho)
        for iteration in range(1, self.iterations + 1):
            free = inverse @ (rho * sparse).sub_(dual).add_(wanted)
            shifted = free + dual / rho
            mask = self._support(problem, shifted)
            sparse = shifted * mask
            dual.add_(free.sub_(sparse), alpha=rho)
            if iteration % _UPDATE:
                continue
            changes = int(torch.count_nonzero(mask != before))
            before = mask
            if changes == 0 and started:
                break
            if iteration >= _SETTLING and changes < _SETTLED * size and started:
                break
            if changes > 0.005 * size:
                started = True
                rho = min(_LARGEST_RHO, rho * (1.3 if changes > 0.1 * size else 1.2))
            elif started or rho < _LEAST_RHO * self.rho:
                started = True
                rho = min(_LARGEST_RHO, rho * 1.1)
            else:
                # So strong a penalty that the support of the largest weights cannot move: start again with less.
                rho /= 5
                before = mask = first
                sparse, dual = dense * mask, torch.zeros_like(dense)
            inverse = spectrum.shifted_inverse(rho)
        return sparse, mask

    def _support(self, problem: Problem, weight: Tensor) -> Tensor:
        return problem.best(weight.mT.square(), self.target_pattern).mT


def _conjugate_gradients(hessian: Tensor, wanted: Tensor, start: Tensor, mask: Tensor, iterations: int) -> Tensor:
    """For each column x of `start` the solution of ``hessian x = wanted`` on its support.

    The preconditioner is the diagonal, which is 1.
    """
    found = start
    residual = (wanted - hessian @ found) * mask
    direction = residual
    norm = residual.square().sum(dim=-2, keepdim=True)
    for _ in range(iterations):
        ahead = (hessian @ direction) * mask
        curvature = (direction * ahead).sum(dim=-2, keepdim=True)
        step = torch.where(curvature > 0, norm / curvature, 0)
        found = found + step * direction
        residual = residual - step * ahead
        last, norm = norm, residual.square().sum(dim=-2, keepdim=True)
        direction = residual + torch.where(last > 0, norm / last, 0) * direction
    return found
