"""Sparsity-aware training in Keras: a closed loop from the sparsity and the metric reached to the pressure applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from keras import ops

from isogrid.errors import UsageError
from isogrid.integrations.keras.methods.base import Aimed, score_layer
from isogrid.integrations.keras.penalties import L1, Penalty
from isogrid.integrations.keras.state import SparseState
from isogrid.schedules import Cubic, Schedule
from isogrid.scores import Magnitude
from isogrid.updates import check_interval, update_interval

_LEAST, _MOST = 1e-12, 1e6
"""Bounds of what multiplies the penalty: the loop searches between them and never leaves floating point."""
_SURPLUS = 0.05
"""How far the proximal step may run ahead of the setpoint, as a share of the remaining density."""


@dataclass(frozen=True)
class Aware(Aimed):
    """Sparsity-aware training (also called sparse perceptive, 稀疏感知): sense the sparsity reached, and adjust.

    As `isogrid.Aware`: the proximal step of `penalty` makes zeros inside the optimiser's step, with a strength
    ``k * lam`` whose factor k the loop controls; every `delta_t` steps the loop senses the share of exact zeros, moves
    k, and cuts by magnitude what is still missing to the setpoint of `schedule`.  A proximal step that would run ahead
    of the setpoint by more than 5 % of the remaining density is taken with ``k / 4`` instead, as often as it needs;
    between two checks the setpoint is a straight line.

    Attributes:
        penalty: `L1` or `ElasticNet`, at the strength to start from.
        floor: the metric that must hold (see ``metric`` of `Sparsify`); None ignores the metric.
        higher_is_better: the direction of the metric.
        share: the share of the due zeros that the proximal step should make.
        gain: how fast k moves.
        schedule: the setpoint's way, in fractions of the training.
        delta_t: steps between two checks; a hundredth of the training by default.

    Raises:
        UsageError: an option out of range, or a pattern whose sparsity is fixed.

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
        if not isinstance(self.penalty, Penalty):
            raise UsageError(
                f"Aware got penalty={self.penalty!r}; accepted are isogrid.keras.L1 and isogrid.keras.ElasticNet."
            )
        if self.target_pattern.implied_sparsity is not None:
            raise UsageError(
                f"Aware cannot steer towards pattern {self.pattern}, whose sparsity is fixed; use Gradual."
            )

    def with_floor(self, limit: float, *, higher_is_better: bool) -> Self:
        return dataclasses.replace(self, floor=limit, higher_is_better=higher_is_better)

    # -- inside the optimiser's step ---------------------------------------------------------------------------------

    def scalars(self) -> Mapping[str, float]:
        return {"factor": 1.0, "limit": 0.0, "slope": 0.0, "pressing": 0.0}

    def move(self, riding: Any) -> None:
        """The proximal step, weakened until it keeps the setpoint's distance; `limit` counts zeros."""
        factor, limit = riding.scalars["factor"], riding.scalars["limit"]
        limit.assign(limit + riding.scalars["slope"])
        weights = [ops.cast(layer.target.variable, "float32") for layer in riding.layers]
        sizes = [riding.step_size(layer) for layer in riding.layers]

        def zeros(of: list[Any]) -> Any:
            return sum(ops.sum(ops.cast(ops.equal(weight, 0), "float32")) for weight in of)

        def shrunk(strength: Any) -> list[Any]:
            return [self.penalty.shrink(weight, size * strength) for weight, size in zip(weights, sizes, strict=True)]

        most = ops.maximum(limit, zeros(weights))
        begun = ops.cast(factor, "float32")
        (chosen,) = ops.while_loop(
            lambda strength: ops.logical_and(strength >= _LEAST, zeros(shrunk(strength)) > most),
            lambda strength: (strength / 4,),
            (begun,),
        )
        presses = ops.logical_and(riding.scalars["pressing"] > 0, riding.moved)
        taken = ops.logical_and(presses, chosen >= _LEAST)
        for layer, before, after in zip(riding.layers, weights, shrunk(chosen), strict=True):
            variable = layer.target.variable
            variable.assign(ops.cast(ops.where(taken, after, before), variable.dtype))
        factor.assign(ops.where(presses, ops.maximum(chosen, _LEAST), begun))

    # -- between steps -----------------------------------------------------------------------------------------------

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        state.numbers.update(clock=0.0, factor=1.0, broken=False, threshold=0.0, sensed=state.sparsity, last=0)
        self._press(state)

    def due(self, state: SparseState, step: int) -> bool:
        if self.arrived(state):
            return False
        interval = update_interval(self.delta_t, state.total_steps)
        return step % interval == 0 or step >= self._arrival(state)

    def _arrival(self, state: SparseState) -> float:
        """The step by which the setpoint is to arrive."""
        on_time = self.schedule.end * state.total_steps
        return on_time if state.step < on_time else self._deadline * state.total_steps

    def update(self, state: SparseState) -> None:
        """Sense, move the factor, cut what is missing."""
        state.check_finite()
        state.numbers["factor"] = float(state.scalar("factor"))
        for step in range(int(state.numbers["last"]) + 1, state.step + 1):
            self._advance(state, step)
        state.numbers["last"] = state.step
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
            cut = [float(magnitudes[layer.name][~layer.mask].max(initial=0.0)) for layer in state.layers]
            state.numbers["threshold"] = max(cut)
        state.numbers["sensed"] = state.sparsity
        self._press(state)

    def _advance(self, state: SparseState, step: int) -> None:
        """Move the setpoint's clock by one step; it stands still while the floor is broken, and then catches up."""
        if state.numbers["broken"] or self.arrived(state):
            return
        end = self.schedule.end
        clock = float(state.numbers["clock"])
        on_time = end * state.total_steps
        left = (on_time if step <= on_time else self._deadline * state.total_steps) - step
        state.numbers["clock"] = end if left < 1 else clock + (end - clock) / (left + 1)

    def _press(self, state: SparseState) -> None:
        """Tell the optimiser's step how strongly to pull until the next check, and how many zeros it may make."""
        interval = update_interval(self.delta_t, state.total_steps)
        now = float(state.numbers["clock"])
        ahead = now if state.numbers["broken"] else min(self.schedule.end, now + interval / state.total_steps)
        begin, end = (self._most(self._setpoint_at(state, clock), state.size) for clock in (now, ahead))
        state.set_scalar("factor", float(state.numbers["factor"]))
        state.set_scalar("limit", begin)
        state.set_scalar("slope", (end - begin) / interval)
        state.set_scalar("pressing", 0.0 if self.arrived(state) else 1.0)

    @staticmethod
    def _most(setpoint: float, size: int) -> float:
        return (setpoint + _SURPLUS * (1 - setpoint)) * size

    def _setpoint_at(self, state: SparseState, clock: float) -> float:
        return self.schedule.value(clock, *self.goal(state))

    def setpoint(self, state: SparseState) -> float:
        """The sparsity that the loop steers towards at this moment."""
        return self._setpoint_at(state, float(state.numbers["clock"]))

    def arrived(self, state: SparseState) -> bool:
        return float(state.numbers["clock"]) >= self.schedule.end

    def observe(self, state: SparseState, metric: float) -> None:
        if self.floor is None:
            return
        holds = metric >= self.floor if self.higher_is_better else metric <= self.floor
        state.numbers["broken"] = not holds
        state.numbers["factor"] = float(state.scalar("factor"))
        if not holds:
            state.numbers["factor"] = max(_LEAST, state.numbers["factor"] / 2)
        self._press(state)

    def telemetry(self, state: SparseState) -> dict[str, float]:
        return {
            **super().telemetry(state),
            "penalty_factor": float(state.scalar("factor")),
            "threshold": float(state.numbers["threshold"]),
            "setpoint": self.setpoint(state),
        }
