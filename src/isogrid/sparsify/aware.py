"""Sparsity-aware training: a closed loop from the sparsity and the metric reached to the pressure applied."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from isogrid.errors import UsageError
from isogrid.penalties import L1, Penalty
from isogrid.schedules import Cubic, Schedule
from isogrid.scores import Magnitude
from isogrid.sparsify.method import register_method
from isogrid.sparsify.pull import Pull
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import score_layer
from isogrid.sparsify.state import SparseState
from isogrid.sparsify.step_size import StepSizes
from isogrid.updates import check_interval, update_interval

_LEAST, _MOST = 1e-12, 1e6
"""Bounds of what multiplies the penalty: the loop searches between them and never leaves floating point."""


@register_method("aware", penalty=L1())
@dataclass(frozen=True)
class Aware(Selecting):
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
    floor: float | None = None
    higher_is_better: bool = True
    share: float = 0.5
    gain: float = 2.0
    schedule: Schedule = field(default_factory=lambda: Cubic(end=0.75))
    delta_t: int | None = None

    _deadline: ClassVar[float] = 0.95
    """Where a setpoint that had to wait must arrive at the latest, as a fraction of the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval("Aware", self.delta_t)
        if not isinstance(self.penalty, Penalty) or not self.penalty.makes_zeros:
            raise UsageError(
                f"Aware got penalty={self.penalty!r}; accepted is one whose proximal step makes zeros: L1, ElasticNet "
                "or GroupLasso."
            )
        if self.target_pattern.implied_sparsity is not None:
            raise UsageError(
                f"Aware cannot steer towards pattern {self.pattern}, whose sparsity is fixed; use Gradual."
            )

    def with_floor(self, limit: float, *, higher_is_better: bool) -> Self:
        return dataclasses.replace(self, floor=limit, higher_is_better=higher_is_better)

    def check(self, state: SparseState) -> None:
        super().check(state)
        Pull(self.penalty, proximal=True).check(state)

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        state.numbers.update(clock=0.0, factor=1.0, broken=False, threshold=0.0, sensed=state.sparsity)

    def observe(self, state: SparseState, metric: float) -> None:
        if self.floor is None:
            return
        holds = metric >= self.floor if self.higher_is_better else metric <= self.floor
        state.numbers["broken"] = not holds
        if not holds:
            state.numbers["factor"] = max(_LEAST, state.numbers["factor"] / 2)

    def telemetry(self, state: SparseState) -> dict[str, float]:
        return {
            **super().telemetry(state),
            "penalty_factor": float(state.numbers["factor"]),
            "threshold": float(state.numbers["threshold"]),
            "setpoint": self.setpoint(state),
        }

    def setpoint(self, state: SparseState) -> float:
        """The sparsity that the loop steers towards at this moment."""
        initial = float(state.numbers["initial_sparsity"])
        return self.schedule.value(float(state.numbers["clock"]), initial, max(initial, self.target_sparsity))

    def arrived(self, state: SparseState) -> bool:
        """Whether the setpoint has reached the target, so that masks are only held."""
        return float(state.numbers["clock"]) >= self.schedule.end

    def after_step(self, state: SparseState) -> None:
        if self.arrived(state):
            return
        self._advance(state)
        self._shrink(state)
        checks = state.step % update_interval(self.delta_t, state.total_steps) == 0
        if checks or self.arrived(state):
            self._adjust(state)

    def _advance(self, state: SparseState) -> None:
        """Move the setpoint's clock, which stands still while the floor is broken and then catches up."""
        if state.numbers["broken"]:
            return
        end = self.schedule.end
        clock = float(state.numbers["clock"])
        on_time = end * state.total_steps
        left = (on_time if state.step <= on_time else self._deadline * state.total_steps) - state.step
        if left < 1:
            state.numbers["clock"] = end
        else:
            state.numbers["clock"] = clock + (end - clock) / (left + 1)

    def _shrink(self, state: SparseState) -> None:
        """The proximal step, weakened until it keeps the setpoint's distance."""
        optimizer = state.optimizer
        if optimizer is None:
            return
        setpoint = self.setpoint(state)
        most = (setpoint + 0.05 * (1 - setpoint)) * state.size
        sizes = StepSizes(optimizer)
        steps = [sizes.of(layer.target.parameter) for layer in state.layers]
        already = sum(_zeros(layer.weight) for layer in state.layers)
        while state.numbers["factor"] >= _LEAST:
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

    def _adjust(self, state: SparseState) -> None:
        """Sense, move the factor, cut what is missing."""
        state.check_finite()
        sensed, setpoint = state.sparsity, self.setpoint(state)
        before = float(state.numbers["sensed"])
        due = setpoint - before
        if due > 0 and not state.numbers["broken"]:
            made = (sensed - before) / due
            exponent = min(2.0, max(-1.0, self.gain * (self.share - made)))
            state.numbers["factor"] = min(_MOST, max(_LEAST, state.numbers["factor"] * 2.0**exponent))
        if sensed < setpoint or self.arrived(state):
            magnitudes = {layer.name: score_layer(state, layer, Magnitude()) for layer in state.layers}
            self.keep_best(state, magnitudes, max(setpoint, state.mask_sparsity))
            cut = [
                float(magnitudes[layer.name][layer.to_array(layer.pruned)].max(initial=0.0)) for layer in state.layers
            ]
            state.numbers["threshold"] = max(cut)
        state.numbers["sensed"] = state.sparsity


def _zeros(weight: Tensor) -> int:
    return weight.numel() - int(torch.count_nonzero(weight))
