"""How long and how fast `isogrid.keras.optimize` trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from isogrid.checks import check_whole
from isogrid.errors import UsageError
from isogrid.ladder import LADDER, check_ladder


@dataclass(frozen=True)
class Recipe:
    """The numbers of the main job's trainings; the optimiser is the model's own.

    Attributes:
        epochs: passes over the training data for the dense baseline.
        rung_epochs: passes for each rung of the climb.
        lr: peak learning rate; each phase warms up to it and falls to nought along half a cosine.  None takes the
            optimiser's own rate as the peak, or its own schedule as it stands, anew in each phase.
        rung_lr: peak of the rungs' phases; None takes `lr`.
        batch_size: samples of a batch, where the data are arrays.
        ladder: the sparsities of the climb, rising.

    Raises:
        UsageError: a number out of range, or a ladder that does not rise.

    >>> Recipe(epochs=3).rung_epochs
    5
    """

    epochs: int = 20
    rung_epochs: int = 5
    lr: float | None = None
    rung_lr: float | None = None
    batch_size: int = 32
    ladder: Sequence[float] = LADDER

    def __post_init__(self) -> None:
        for name in ("epochs", "rung_epochs", "batch_size"):
            check_whole("The recipe", name, getattr(self, name))
        for name in ("lr", "rung_lr"):
            rate = getattr(self, name)
            if rate is not None and not (math.isfinite(rate) and rate > 0):
                raise UsageError(f"The recipe got {name}={rate!r}; accepted is a finite number > 0, or None.")
        object.__setattr__(self, "ladder", check_ladder(self.ladder))

    @property
    def teachers(self) -> int:
        """Rungs learn from the data alone."""
        return 1
