"""A penalty at work on the targets of a training: as a term of the loss, or as a step after the optimiser's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isogrid.penalties import Penalty
from isogrid.sparsify.state import SparseState
from isogrid.sparsify.step_size import StepSizes


@dataclass(frozen=True)
class Pull:
    """How a penalty acts: its gradient comes through the loss, or its proximal step follows the optimiser's.

    Attributes:
        penalty: what pulls.
        proximal: take the proximal step; by default wherever it makes zeros.  The two are never both applied.
    """

    penalty: Penalty
    proximal: bool

    @classmethod
    def of(cls, penalty: Penalty, *, proximal: bool | None = None) -> Pull:
        """The penalty in the way that is asked for, or in its own."""
        return cls(penalty, penalty.makes_zeros if proximal is None else proximal)

    def check(self, state: SparseState) -> None:
        """Raise ``UnsupportedError`` if the proximal step does not fit the optimiser: now, not at the first step."""
        if self.proximal and state.optimizer is not None:
            sizes = StepSizes(state.optimizer)
            for layer in state.layers:
                sizes.of(layer.target.parameter)

    def loss_term(self, state: SparseState, strength: float = 1.0) -> Tensor | None:
        """What the loss lacks, a differentiable scalar; None where the proximal step does the work."""
        if self.proximal or strength == 0:
            return None
        terms = [self.penalty.value(layer.target.canonical(layer.target.parameter)) for layer in state.layers]
        return strength * torch.stack([term.to(terms[0].device) for term in terms]).sum()

    def shrink(self, state: SparseState, strength: float = 1.0) -> None:
        """The proximal step that belongs to the step which the optimiser just took."""
        if not self.proximal or strength == 0 or state.optimizer is None:
            return
        sizes = StepSizes(state.optimizer)
        for layer in state.layers:
            size = sizes.of(layer.target.parameter)
            along = layer.target.canonical(size) if isinstance(size, Tensor) else size
            self.penalty.shrink_(layer.canonical_weight, strength * along)

    def adopt_zeros(self, state: SparseState) -> None:
        """Make the zeros that the proximal step left part of the masks."""
        if self.proximal:
            state.set_masks({layer.name: layer.mask & (layer.weight != 0) for layer in state.layers})
