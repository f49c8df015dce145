"""Sparsity-aware training: a closed loop from the sparsity and the metric reached to the pressure applied."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from isogrid.errors import UsageError
from isogrid.penalties import L1, Penalty
from isogrid.rules.aware import LEAST, ClosedLoop
from isogrid.sparsify.method import register_method
from isogrid.sparsify.pull import Pull
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.state import SparseState
from isogrid.sparsify.step_size import StepSizes


@register_method("aware", penalty=L1())
@dataclass(frozen=True)
class Aware(ClosedLoop, Selecting):
    """Sparsity-aware training (also called sparse perceptive, 稀疏感知): sense the sparsity reached, and adjust.

    Two actuators make zeros: the proximal step of `penalty`, whose strength is ``k * lam`` with a factor k that the
    loop controls, and a magnitude threshold below which weights are cut.  Every `delta_t` steps the loop senses the
    share of exact zeros ``s`` and compares it with the setpoint ``s*`` of `schedule`:

    * of the zeros that were due since the last check, the proximal step made the share ``r``; the factor moves by
      ``k <- k * 2^(gain * (share - r))``, with the exponent held between -1 and 2;
    * what is still missing to ``s*`` is cut: the threshold becomes the magnitude that closes the gap.

    Between two checks a proximal step that would pass the setpoint by more than 5 % of the remaining density is
    taken with ``k / 4`` instead, as often as it needs.  So a ``lam`` that is orders of magnitude too strong does no
    harm, one that is too weak is made up for, and the target is met from either side.

    `observe` senses the metric: while it is on the wrong side of `floor`, the setpoint stands still and k is halved
    at each observation; when the floor holds again, the setpoint goes on, faster, so as to arrive by the end.  With
    the ramp's end the pressure goes and the masks are held.

    Attributes:
        penalty: `L1`, `ElasticNet` or `GroupLasso`, at the strength to start from.
        floor: the metric that must hold, in the units passed to ``observe``; None ignores the metric.
        higher_is_better: the direction of the metric.
        share: the share of the due zeros that the proximal step should make.
        gain: how fast k moves.
        schedule: the setpoint's way, in fractions of the training.
        delta_t: steps between two checks; a hundredth of the training by default.

    >>> Aware(sparsity=0.9, penalty=L1(1e-5), floor=0.88).schedule
    Cubic(begin=0.0, end=0.75)
    """

    penalty: Penalty = field(default_factory=L1)

    def check_penalty(self) -> None:
        if not isinstance(self.penalty, Penalty) or not self.penalty.makes_zeros:
            raise UsageError(
                f"Aware got penalty={self.penalty!r}; accepted is one whose proximal step makes zeros: L1, ElasticNet "
                "or GroupLasso."
            )

    def check(self, state: SparseState) -> None:
        super().check(state)
        Pull(self.penalty, proximal=True).check(state)

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        self.start_loop(state)

    def after_step(self, state: SparseState) -> None:
        if self.arrived(state):
            return
        self.advance(state, state.step)
        self._shrink(state)
        if self.checks(state, state.step) or self.arrived(state):
            self.adjust(state)

    def _shrink(self, state: SparseState) -> None:
        """The proximal step, weakened until it keeps the setpoint's distance."""
        optimizer = state.optimizer
        if optimizer is None:
            return
        most = self.most_zeros(state, float(state.numbers["clock"]))
        sizes = StepSizes(optimizer)
        steps = [sizes.of(layer.target.parameter) for layer in state.layers]
        already = sum(_zeros(layer.weight) for layer in state.layers)
        while state.numbers["factor"] >= LEAST:
            shrunk = []
            for layer, step in zip(state.layers, steps, strict=True):
                weight = layer.weight.clone()
                along = layer.target.canonical(step) if isinstance(step, Tensor) else step
                self.penalty.shrink_(layer.target.canonical(weight), state.numbers["factor"] * along)
                shrunk.append(weight)
            if sum(_zeros(weight) for weight in shrunk) <= max(most, already):
                for layer, weight in zip(state.layers, shrunk, strict=True):
                    layer.weight.copy_(weight)
                return
            state.numbers["factor"] /= 4


def _zeros(weight: Tensor) -> int:
    return weight.numel() - int(torch.count_nonzero(weight))
