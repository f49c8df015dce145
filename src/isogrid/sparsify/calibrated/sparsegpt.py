"""SparseGPT: pruning that corrects the weights that are left."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from isogrid.errors import UsageError
from isogrid.sparsify.calibrated.choice import check_sweepable, choice_for
from isogrid.sparsify.calibrated.hessian import upper_factor
from isogrid.sparsify.calibrated.method import Calibrated, Problem
from isogrid.sparsify.calibrated.options import check_damping
from isogrid.sparsify.calibrated.sweep import sweep
from isogrid.sparsify.method import register_method


@register_method("sparsegpt")
@dataclass(frozen=True)
class SparseGPT(Calibrated):
    """SparseGPT: weights become zero column by column, and those to the right are corrected for each that goes.

    With ``H = X.T X`` of the layer's inputs, removing weight j of an output costs ``w_j^2 / [H^-1]_jj`` of squared
    output error once the others have moved by ``-w_j [H^-1]_:j / [H^-1]_jj``; columns that the sweep has left behind
    stay as they are, so that all outputs share one factor of H.  Which weights go is chosen, by that cost, when the
    sweep reaches a block of columns (Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1 and section 3.3).

    Attributes:
        pattern: ``unstructured`` compares within blocks of `block_size` columns over all outputs, ``N:M`` within each M
            inputs; ``block``, ``channel`` and ``fan_in`` work too, ``row`` does not: nothing in a row could make up for
            its loss.
        allocation: how the sparsity is shared out over layers; ``"uniform"`` as published.
        damping: added to the diagonal of H, as a fraction of its mean.
        block_size: columns that are chosen among, and corrected, together.

    >>> import torch
    >>> from isogrid.sparsify import prune
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> _ = prune(layer, SparseGPT(sparsity=0.5), data=[torch.tensor([[1.0, 1.0]])])  # the inputs are always equal
    >>> [round(w, 1) for w in layer.weight[0].tolist()]
    [0.0, 3.0]
    """

    damping: float = 0.01
    block_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        check_sweepable(owner, self.target_pattern)
        check_damping(owner, self.damping)
        if isinstance(self.block_size, bool) or not isinstance(self.block_size, int) or self.block_size < 1:
            raise UsageError(f"{owner} got block_size={self.block_size!r}; accepted is a whole number of columns >= 1.")

    def prepare(self, moments: Tensor) -> Tensor:
        return upper_factor(moments, self.damping)

    def solve(self, problem: Problem) -> tuple[Tensor, Tensor]:
        columns = problem.active.movedim(-1, 0).flatten(1)
        choice = choice_for(self.target_pattern, problem.view, problem.keep, columns, self.block_size)
        return sweep(problem.weight, problem.active, problem.prepared, choice, self.block_size)
