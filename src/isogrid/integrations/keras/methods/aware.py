"""Sparsity-aware training in Keras: a closed loop from the sparsity and the metric reached to the pressure applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras import ops

from isogrid.errors import UsageError
from isogrid.integrations.keras.methods.base import Aimed
from isogrid.integrations.keras.penalties import L1, Penalty
from isogrid.integrations.keras.state import SparseState
from isogrid.rules.aware import LEAST, ClosedLoop
from isogrid.updates import update_interval


@dataclass(frozen=True)
class Aware(ClosedLoop, Aimed):
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

    def check_penalty(self) -> None:
        if not isinstance(self.penalty, Penalty):
            raise UsageError(
                f"Aware got penalty={self.penalty!r}; accepted are isogrid.keras.L1 and isogrid.keras.ElasticNet."
            )

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
            lambda strength: ops.logical_and(strength >= LEAST, zeros(shrunk(strength)) > most),
            lambda strength: (strength / 4,),
            (begun,),
        )
        presses = ops.logical_and(riding.scalars["pressing"] > 0, riding.moved)
        taken = ops.logical_and(presses, chosen >= LEAST)
        for layer, before, after in zip(riding.layers, weights, shrunk(chosen), strict=True):
            variable = layer.target.variable
            variable.assign(ops.cast(ops.where(taken, after, before), variable.dtype))
        factor.assign(ops.where(presses, ops.maximum(chosen, LEAST), begun))

    # -- between steps -----------------------------------------------------------------------------------------------

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        self.start_loop(state)
        state.numbers["last"] = 0
        self._press(state)

    def due(self, state: SparseState, step: int) -> bool:
        return not self.arrived(state) and (self.checks(state, step) or step >= self._arrival(state))

    def _arrival(self, state: SparseState) -> float:
        """The step by which the setpoint is to arrive."""
        on_time = self.schedule.end * state.total_steps
        return on_time if state.step < on_time else self._deadline * state.total_steps

    def update(self, state: SparseState) -> None:
        """Take over what the steps made of the factor, catch up with the clock, and adjust."""
        state.numbers["factor"] = self.pressure(state)
        for step in range(int(state.numbers["last"]) + 1, state.step + 1):
            self.advance(state, step)
        state.numbers["last"] = state.step
        self.adjust(state)
        self._press(state)

    def _press(self, state: SparseState) -> None:
        """Tell the optimiser's step how strongly to pull until the next check, and how many zeros it may make."""
        interval = update_interval(self.delta_t, state.total_steps)
        now = float(state.numbers["clock"])
        ahead = now if state.numbers["broken"] else min(self.schedule.end, now + interval / state.total_steps)
        begin, end = (self.most_zeros(state, clock) for clock in (now, ahead))
        state.set_scalar("factor", float(state.numbers["factor"]))
        state.set_scalar("limit", begin)
        state.set_scalar("slope", (end - begin) / interval)
        state.set_scalar("pressing", 0.0 if self.arrived(state) else 1.0)

    def observe(self, state: SparseState, metric: float) -> None:
        if self.floor is None:
            return
        state.numbers["factor"] = self.pressure(state)
        super().observe(state, metric)
        self._press(state)

    def pressure(self, state: SparseState) -> float:
        return float(state.scalar("factor"))
