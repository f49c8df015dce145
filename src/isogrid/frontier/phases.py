"""What the search asks of a training, and what comes back: the same for every framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Pace(Protocol):
    """How long each part of the job trains, and the sparsities it climbs through; `isogrid.Recipe` is one."""

    @property
    def epochs(self) -> int:
        """Passes over the training data for the dense baseline."""

    @property
    def rung_epochs(self) -> int:
        """Passes for each rung."""

    @property
    def lr(self) -> float | None:
        """Peak learning rate; None where the optimiser has a schedule of its own."""

    @property
    def rung_lr(self) -> float | None:
        """Peak of the rungs' phases; None takes `lr`."""

    @property
    def teachers(self) -> int:
        """How many of the best dense cycles teach the rungs together."""

    @property
    def ladder(self) -> Sequence[float]:
        """The sparsities, rising."""


@dataclass(frozen=True)
class Phase:
    """What one phase does.

    Attributes:
        name: of its checkpoint.
        title: for people.
        epochs: passes over the training data.
        lr: peak learning rate; None where the optimiser has a schedule of its own.
        method: what makes zeros meanwhile, already aimed at its sparsity; None trains densely.
        until: a metric of the validation split at which the phase stops early.
    """

    name: str
    title: str
    epochs: int
    lr: float | None
    method: Any = None
    until: float | None = None


@dataclass(frozen=True)
class Trained:
    """What a phase ends with: the model's state, the masks that hold its zeros, and how far it went.

    States and masks are the framework's own tensors or arrays, by name.  ``flops`` is what the whole training up to
    here has cost, the phases below included; None where nobody counts.
    """

    model: Mapping[str, Any]
    masks: Mapping[str, Any] | None
    metric: float
    steps: int
    flops: float | None
