"""Methods that prune by a score outside of training: their options."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from isogrid.errors import UsageError
from isogrid.rules.aim import Aim, score_weights
from isogrid.rules.method import Usage
from isogrid.rules.state import State
from isogrid.scores import Random, Score, parse_score


@dataclass(frozen=True)
class ByScore(Aim):
    """A score, or the name of one; each method has a default of its own."""

    score: Score | str | None = None

    default_score: ClassVar[str]

    def __post_init__(self) -> None:
        chosen = self.default_score if self.score is None else self.score
        score = parse_score(chosen) if isinstance(chosen, str) else chosen
        if not isinstance(score, Score):
            raise UsageError(f"{type(self).__name__} got score={score!r}; accepted is a Score, or the name of one.")
        object.__setattr__(self, "score", score)
        super().__post_init__()

    @property
    def target_score(self) -> Score:
        """`score`, resolved."""
        assert isinstance(self.score, Score)
        return self.score

    def prune_at_once(self, state: State) -> None:
        """Prune at once to the target sparsity, by a score that looks at nothing but weights."""
        state.check_finite()
        self.keep_best(state, score_weights(state, self.target_score), self.target_sparsity)


@dataclass(frozen=True)
class Fixed(ByScore):
    """The options of `isogrid.Static` and `isogrid.keras.Static`, which say what they mean."""

    masks: Mapping[str, Any] | None = field(default=None, repr=False, compare=False, hash=False)

    usage: ClassVar[Usage] = Usage.RESTART
    default_allocation: ClassVar[str] = "global"
    default_score: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        if self.masks is not None:
            self.check_given(self.masks)
        if self.masks is not None and self.sparsity is None:
            size = sum(math.prod(mask.shape) for mask in self.masks.values())
            active = sum(int(mask.sum()) for mask in self.masks.values())
            object.__setattr__(self, "sparsity", 1 - active / size if size else 0.0)
        at_random = self.score is None or self.score == Random.name or isinstance(self.score, Random)
        if self.masks is not None and not at_random:
            raise UsageError(f"Static got both masks and score={self.score!r}; accepted is one of the two.")
        if self.allocation is None and at_random:
            object.__setattr__(self, "allocation", "erk")
        super().__post_init__()

    @abstractmethod
    def check_given(self, masks: Any) -> None:
        """Raise ``UsageError`` for anything but a mapping from names to boolean arrays of the framework."""
