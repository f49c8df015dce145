"""The base of methods that prune by a score, at once or in rounds, outside of training."""

from __future__ import annotations

from dataclasses import dataclass

from isogrid.errors import UsageError
from isogrid.rules.scoring import ByScore
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.state import SparseState
from isogrid.sparsify.statistics import score_layers


@dataclass(frozen=True)
class Scoring(ByScore, Selecting):
    """Options that such methods share.

    Attributes:
        score: a `Score` or its name.
        rounds: after how many rounds of scoring and pruning the sparsity is reached, the density falling by the same
            factor in each; None takes what the score was published with (100 for ``"synflow"``, else 1).
    """

    rounds: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        rounds = self.target_score.rounds if self.rounds is None else self.rounds
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise UsageError(f"{type(self).__name__} got rounds={rounds!r}; accepted is a whole number >= 1, or None.")
        object.__setattr__(self, "rounds", rounds)

    @property
    def needs_data(self) -> bool:
        return bool(self.target_score.needs)

    def prune_by_score(self, state: SparseState, *, untrained: bool) -> None:
        """Prune to the target sparsity, or leave what is sparser already.

        Args:
            state: what is pruned.
            untrained: see `isogrid.sparsify.statistics.score_layers`.
        """
        state.check_finite()
        assert self.rounds is not None
        # Not more where more is pruned already: what an allocation shares out is the target alone, and held zeros stay.
        goal, density = self.target_sparsity, 1 - state.mask_sparsity
        for round_ in range(1, self.rounds + 1):
            left = density * ((1 - goal) / density) ** (round_ / self.rounds) if density else 0.0
            scores = score_layers(state, self.target_score, untrained=untrained)
            self.keep_best(state, scores, goal if round_ == self.rounds else min(goal, 1 - left))
