"""The base of the methods: what is done inside the optimiser's step, and what is done between steps."""

from __future__ import annotations

import dataclasses
import enum
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from isogrid.errors import PatternError
from isogrid.integrations.keras.state import SparseLayer, SparseState
from isogrid.scores import Score
from isogrid.selection import Aim, select

Gradients = Literal["none", "active", "dense"]


class Usage(enum.Enum):
    """How the main job reaches a sparsity with a method; the words are those of the PyTorch side."""

    CLIMB = "climb"
    """One run passes through rising sparsities, each rung starting from the rung below."""
    RESTART = "restart"
    """Every sparsity is trained from the initial weights."""
    AFTER = "after"
    """The trained dense weights are pruned at once; no training belongs to the method."""


@dataclass(frozen=True)
class Method(ABC):
    """A way of making zeros: a frozen set of options plus what to do at each moment of a training.

    `remember` and `move` become part of the compiled training step, so they are written with ``keras.ops`` and read
    and write nothing but the variables that they are given.  The others run on the host between steps, in numpy.
    """

    usage: ClassVar[Usage] = Usage.CLIMB

    def with_floor(self, limit: float, *, higher_is_better: bool) -> Self:
        """The same method told which metric must hold; the same object where the method does not care."""
        return self

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

    def observe(self, state: SparseState, metric: float) -> None:
        """Called with the metric of each epoch."""

    def telemetry(self, state: SparseState) -> dict[str, float]:
        """What a log of the training should show of the method, by name."""
        return {"sparsity": state.sparsity, "mask_sparsity": state.mask_sparsity}


@dataclass(frozen=True)
class Aimed(Aim, Method):
    """Options of methods that aim at one sparsity, in one pattern, shared out over the layers by one allocation.

    Attributes:
        sparsity: fraction of the targets' weights that are zero in the end, in [0, 1).  May be left out with a pattern
            that implies it, such as ``"2:4"``.
        pattern: a `Pattern` or its text.
        allocation: an `Allocation` or its name; None takes the method's own default.
    """

    def at(self, sparsity: float) -> Self:
        """The same method aimed at another sparsity."""
        changed: dict[str, Any] = {"sparsity": sparsity}
        return dataclasses.replace(self, **changed)

    def begin(self, state: SparseState) -> None:
        for layer in state.layers:
            try:
                self.target_pattern.check(layer.target.shape)
            except PatternError as problem:
                raise PatternError(
                    f"{layer.name} does not fit the pattern; leave it out with ignore=. {problem}"
                ) from None
        state.numbers.setdefault("initial_sparsity", state.mask_sparsity)

    def goal(self, state: SparseState) -> tuple[float, float]:
        """The sparsity that the ramp starts from, and the one that it ends at."""
        initial = float(state.numbers["initial_sparsity"])
        return initial, max(initial, self.target_sparsity)

    def keep_best(self, state: SparseState, scores: Mapping[str, Any], sparsity: float) -> None:
        """Set the masks that keep the highest `scores` (name to canonical array) at `sparsity`."""
        state.set_masks(select(state.masks, scores, sparsity, self.target_pattern, self.target_allocation))


def score_layer(state: SparseState, layer: SparseLayer, score: Score, *, weight: Any = None, **known: Any) -> Any:
    """The score of each of a layer's weights, or of another `weight` of its shape, in canonical view."""
    return score(layer.weight if weight is None else weight, rng=state.rng("score", layer), **known)
