"""Sparse regularisation: training with a penalty on the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from isogrid.errors import UsageError
from isogrid.penalties import L1, L2, ElasticNet, GroupLasso, Penalty
from isogrid.rules.method import Usage
from isogrid.schedules import Constant, Schedule
from isogrid.sparsify.gradual import Gradual
from isogrid.sparsify.method import register_method
from isogrid.sparsify.pull import Pull
from isogrid.sparsify.state import SparseState


@register_method("l1", "L1 regularisation (lasso): pulls all weights to zero by steps of one size.", penalty=L1())
@register_method("l2", "L2 regularisation (ridge): pulls weights in proportion; makes no exact zeros.", penalty=L2())
@register_method("elastic_net", "L1 and L2 regularisation together.", penalty=ElasticNet())
@register_method("group_lasso", "Group lasso: pulls whole rows (or input channels) to zero.", penalty=GroupLasso())
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
        return self._pull.proximal

    @property
    def _pull(self) -> Pull:
        return Pull.of(self.penalty, proximal=self.proximal)

    def check(self, state: SparseState) -> None:
        super().check(state)
        self._pull.check(state)

    def _pressure(self, state: SparseState) -> float:
        """What multiplies the penalty at this step: the schedule, and 0 once the ramp to a sparsity has closed."""
        if self.sparsity and state.progress >= self.schedule.end:
            return 0.0
        return self.strength.ramp(state.progress)

    def has_loss_term(self, state: SparseState) -> bool:
        return not self.uses_proximal_step and self._pressure(state) > 0

    def loss_term(self, state: SparseState) -> Tensor | None:
        return self._pull.loss_term(state, self._pressure(state))

    def after_step(self, state: SparseState) -> None:
        self._pull.shrink(state, self._pressure(state))
        super().after_step(state)

    def end(self, state: SparseState) -> None:
        """The zeros that the proximal step made are part of the mask from here on."""
        self._pull.adopt_zeros(state)
