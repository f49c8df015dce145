"""Sparse regularisation: training with a penalty on the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from isogrid.errors import UsageError
from isogrid.penalties import L1, L2, ElasticNet, GroupLasso, Penalty
from isogrid.schedules import Constant, Schedule
from isogrid.sparsify.gradual import Gradual
from isogrid.sparsify.method import Usage, register_method
from isogrid.sparsify.state import SparseState
from isogrid.sparsify.step_size import check_step_size, step_size


@register_method("l1", penalty=L1())
@register_method("l2", penalty=L2())
@register_method("elastic_net", penalty=ElasticNet())
@register_method("group_lasso", penalty=GroupLasso())
@dataclass(frozen=True)
class Regularized(Gradual):
    """Sparse regularisation: ``loss + strength * penalty``, and where asked a magnitude ramp to an exact sparsity.

    The update that belongs to it is ``w <- w - a (dL + lam sign w)`` for L1 (see `isogrid.penalties` on the sign that
    some texts print), or a gradient step of the loss alone and then the penalty's proximal step, which gives exact
    zeros.  The two are never both applied.

    With ``sparsity=0``, the default, no weight is cut: what zeros there are come from the proximal step.  With a
    sparsity, the smallest weights are cut along `schedule` while the penalty acts; then it is switched off, so that
    the remaining weights recover from the shrinkage.

    Attributes:
        penalty: what is added to the loss: `L1`, `L2`, `ElasticNet` or `GroupLasso`.
        proximal: take the proximal step instead of the gradient of the penalty; by default wherever it makes zeros.
            The optimiser must be one whose step size is known (SGD, Adam, AdamW, RMSprop, Adagrad).
        strength: a schedule that multiplies the penalty, from 0 to 1; constant 1 by default.

    >>> Regularized(penalty=L2(0.01)).uses_proximal_step
    False
    """

    sparsity: float | None = 0.0
    penalty: Penalty = field(default_factory=L1)
    proximal: bool | None = None
    strength: Schedule = field(default_factory=Constant)

    usage: ClassVar[Usage] = Usage.CLIMB

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.penalty, Penalty):
            raise UsageError(
                f"{type(self).__name__} got penalty={self.penalty!r}; accepted are L1, L2, ElasticNet and GroupLasso."
            )

    @property
    def final_sparsity(self) -> float | None:
        return self.sparsity or None

    @property
    def uses_proximal_step(self) -> bool:
        return self.penalty.makes_zeros if self.proximal is None else self.proximal

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        if self.uses_proximal_step and state.optimizer is not None:
            check_step_size(state.optimizer)

    def _pressure(self, state: SparseState) -> float:
        """What multiplies the penalty at this step: the schedule, and 0 once the ramp to a sparsity has closed."""
        if self.sparsity and state.progress >= self.schedule.end:
            return 0.0
        return self.strength.ramp(state.progress)

    def has_loss_term(self, state: SparseState) -> bool:
        return not self.uses_proximal_step and self._pressure(state) > 0

    def loss_term(self, state: SparseState) -> Tensor | None:
        if not self.has_loss_term(state):
            return None
        terms = [self.penalty.value(layer.target.canonical(layer.target.parameter)) for layer in state.layers]
        return self._pressure(state) * torch.stack([term.to(terms[0].device) for term in terms]).sum()

    def after_step(self, state: SparseState) -> None:
        if self.uses_proximal_step:
            self._shrink(state)
        super().after_step(state)

    def _shrink(self, state: SparseState) -> None:
        pressure = self._pressure(state)
        if pressure == 0 or state.optimizer is None:
            return
        for layer in state.layers:
            step = step_size(state.optimizer, layer.target.parameter)
            if isinstance(step, Tensor):
                step = layer.target.canonical(step)
            self.penalty.shrink_(layer.canonical_weight, pressure * step)

    def end(self, state: SparseState) -> None:
        """The zeros that the proximal step made are part of the mask from here on."""
        if self.uses_proximal_step:
            state.set_masks({layer.name: layer.mask & (layer.weight != 0) for layer in state.layers})
