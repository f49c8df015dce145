"""The base of the methods: what is done inside the optimiser's step, and what is done between steps."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isogrid.integrations.keras.state import SparseState
from isogrid.rules.aim import Aim
from isogrid.rules.method import AnyMethod, Gradients


@dataclass(frozen=True)
class Method(AnyMethod, ABC):
    """A way of making zeros: a frozen set of options plus what to do at each moment of a training.

    `remember` and `move` become part of the compiled training step, so they are written with ``keras.ops`` and read
    and write nothing but the variables that they are given.  The others run on the host between steps, in numpy.
    """

    @property
    def gradients(self) -> Gradients:
        """Which gradients `remember` gets: zero at pruned places, or those that are there too."""
        return "none"

    def memories(self) -> Mapping[str, str]:
        """What `remember` keeps for each target: by name, ``"weight"`` for its shape, or ``"scalar"``.

        One that is called ``weight`` is kept without it: the weight that the gradient was taken at, before the step.
        """
        return {}

    def scalars(self) -> Mapping[str, float]:
        """The numbers that the optimiser's step shares with the host, and what they start from."""
        return {}

    def remember(self, memory: Mapping[str, Any], gradient: Any, step: Any, total_steps: int) -> Mapping[str, Any]:
        """What to keep of a target's gradient: new values for some of the `memory`, by name.

        `step` counts the optimiser's steps with this one, from 1, and ``memory["seen"]`` the gradients before it.
        """
        return {}

    def move(self, riding: Any) -> None:
        """Move the weights on behind the optimiser's step, before zeros are put back."""

    def begin(self, state: SparseState) -> None:
        """Called once, before the first step; masks are all active or adopted."""

    def due(self, state: SparseState, step: int) -> bool:
        """Whether `update` follows that step."""
        return False

    def update(self, state: SparseState) -> None:
        """Renew the masks; ``state.step`` is the number of steps taken."""

    def arrived(self, state: SparseState) -> bool:
        """Whether the sparsity is the final one."""
        return True


@dataclass(frozen=True)
class Aimed(Aim, Method):
    """The base of methods that aim at one sparsity, for Keras; `isogrid.rules.aim.Aim` has the options."""

    def begin(self, state: SparseState) -> None:
        state.check_pattern(self.target_pattern)
        state.numbers.setdefault("initial_sparsity", state.mask_sparsity)
