"""The closed loop of sparsity-aware training: its options, its setpoint, and how it moves the pressure."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from isogrid.errors import UsageError
from isogrid.rules.aim import Aim, score_weights
from isogrid.rules.state import State
from isogrid.schedules import Cubic, Schedule
from isogrid.scores import Magnitude
from isogrid.updates import check_interval, update_interval

LEAST, MOST = 1e-12, 1e6
"""Bounds of what multiplies the penalty: the loop searches between them and never leaves floating point."""
_SURPLUS = 0.05
"""How far the proximal step may run ahead of the setpoint, as a share of the remaining density."""


@dataclass(frozen=True)
class ClosedLoop(Aim):
    """The options of `isogrid.Aware` and `isogrid.keras.Aware`, which say what they mean, and what both do.

    The state's numbers are ``clock`` (where the setpoint stands on its schedule), ``factor`` (what multiplies the
    penalty), ``broken`` (whether the metric is on the wrong side of the floor), ``threshold`` (the largest magnitude
    that was cut) and ``sensed`` (the sparsity at the last check).

    Each framework declares `penalty` with its own type and default, and says in `pressure` how strongly it pulls now.
    """

    penalty: Any = None
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
        self.check_penalty()
        if not self.schedule.end > 0:
            raise UsageError(
                f"Aware got schedule={self.schedule}, which leaves nothing to steer; accepted is one whose ramp has a "
                "length, such as cubic or linear."
            )
        if self.target_pattern.implied_sparsity is not None:
            raise UsageError(
                f"Aware cannot steer towards pattern {self.pattern}, whose sparsity is fixed; use Gradual."
            )

    @abstractmethod
    def check_penalty(self) -> None:
        """Raise ``UsageError`` for a penalty whose proximal step makes no zeros."""

    def with_floor(self, limit: float, *, higher_is_better: bool) -> Self:
        return dataclasses.replace(self, floor=limit, higher_is_better=higher_is_better)

    def start_loop(self, state: State) -> None:
        """Set the state's numbers for a training that begins."""
        state.numbers.update(clock=0.0, factor=1.0, broken=False, threshold=0.0, sensed=state.sparsity)

    def setpoint(self, state: State) -> float:
        """The sparsity that the loop steers towards at this moment."""
        return self.setpoint_at(state, float(state.numbers["clock"]))

    def setpoint_at(self, state: State, clock: float) -> float:
        """The setpoint where the schedule stands at ``clock``, a fraction of the training."""
        return self.schedule.value(clock, *self.goal(state))

    def most_zeros(self, state: State, clock: float) -> float:
        """How many zeros the proximal step may make up to there."""
        setpoint = self.setpoint_at(state, clock)
        return (setpoint + _SURPLUS * (1 - setpoint)) * state.size

    def arrived(self, state: State) -> bool:
        """Whether the setpoint has reached the target, so that masks are only held."""
        return float(state.numbers["clock"]) >= self.schedule.end

    def checks(self, state: State, step: int) -> bool:
        """Whether that step is one of those after which the loop senses and adjusts."""
        return step % update_interval(self.delta_t, state.total_steps) == 0

    def advance(self, state: State, step: int) -> None:
        """Move the setpoint's clock by one step; it stands still while the floor is broken, and then catches up."""
        if state.numbers["broken"] or self.arrived(state):
            return
        end = self.schedule.end
        clock = float(state.numbers["clock"])
        on_time = end * state.total_steps
        left = (on_time if step <= on_time else self._deadline * state.total_steps) - step
        state.numbers["clock"] = end if left < 1 else clock + (end - clock) / (left + 1)

    def adjust(self, state: State) -> None:
        """Sense, move the factor, cut what is missing."""
        state.check_finite()
        sensed, setpoint = state.sparsity, self.setpoint(state)
        before = float(state.numbers["sensed"])
        due = setpoint - before
        if due > 0 and not state.numbers["broken"]:
            made = (sensed - before) / due
            exponent = min(2.0, max(-1.0, self.gain * (self.share - made)))
            state.numbers["factor"] = min(MOST, max(LEAST, float(state.numbers["factor"]) * 2.0**exponent))
        if sensed < setpoint or self.arrived(state):
            magnitudes = score_weights(state, Magnitude())
            self.keep_best(state, magnitudes, max(setpoint, state.mask_sparsity))
            masks = state.read_masks()
            state.numbers["threshold"] = max(
                float(size[~masks[name]].max(initial=0.0)) for name, size in magnitudes.items()
            )
        state.numbers["sensed"] = state.sparsity

    def observe(self, state: Any, metric: float) -> None:
        if self.floor is None:
            return
        holds = metric >= self.floor if self.higher_is_better else metric <= self.floor
        state.numbers["broken"] = not holds
        if not holds:
            state.numbers["factor"] = max(LEAST, self.pressure(state) / 2)

    def pressure(self, state: Any) -> float:
        """What multiplies the penalty at this moment."""
        return float(state.numbers["factor"])

    def telemetry(self, state: State) -> dict[str, float]:
        return {
            **super().telemetry(state),
            "penalty_factor": self.pressure(state),
            "threshold": float(state.numbers["threshold"]),
            "setpoint": self.setpoint(state),
        }
