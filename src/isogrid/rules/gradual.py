"""The ramp of gradual pruning: its options, and when masks are renewed."""

from __future__ import annotations

from dataclasses import dataclass, field

from isogrid.rules.aim import Aim
from isogrid.rules.state import State
from isogrid.schedules import Cubic, Schedule
from isogrid.scores import Magnitude, Score
from isogrid.updates import check_interval, update_due

STEP_STATISTICS = frozenset({"gradient", "squared_gradient"})
"""What is known of a layer within a training step, the step's batch being all the data."""


@dataclass(frozen=True)
class Ramped(Aim):
    """The options of `isogrid.Gradual` and `isogrid.keras.Gradual`, which say what they mean, and what both do."""

    schedule: Schedule = field(default_factory=lambda: Cubic(end=0.75))
    score: Score = field(default_factory=Magnitude)
    delta_t: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(type(self).__name__, self.delta_t)

    @property
    def needs_more_than_a_step(self) -> bool:
        """Whether the score looks at more than the gradient of a training step."""
        return bool(self.score.needs - STEP_STATISTICS)

    def due(self, state: State, step: int) -> bool:
        """Whether a pruning follows that step."""
        return update_due(step, state.total_steps, self.delta_t, self.schedule)

    def sparsity_after(self, state: State, step: int) -> float:
        """The sparsity that the ramp asks for after that step."""
        return self.schedule.value(min(1.0, step / state.total_steps), *self.goal(state))
