"""One-shot pruning of a trained Keras model, without retraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from isogrid.errors import UnsupportedError, UsageError
from isogrid.integrations.keras.methods.base import Aimed, Usage, score_layer
from isogrid.integrations.keras.state import SparseState
from isogrid.scores import Magnitude, Score, parse_score


@dataclass(frozen=True)
class OneShot(Aimed):
    """One-shot pruning: the weights of lowest score become zero at once, by `isogrid.keras.prune`.

    Source: Han et al. 2015, arXiv:1506.02626, without the retraining.

    Attributes:
        score: what ranks the weights, a `Score` or its name; magnitude by default.

    Raises:
        UsageError: an option out of range.
        UnsupportedError: a score that looks at data.

    >>> OneShot(pattern="2:4").sparsity
    0.5
    """

    score: Score | str | None = None

    usage: ClassVar[Usage] = Usage.AFTER

    def __post_init__(self) -> None:
        super().__post_init__()
        score = parse_score(self.score) if isinstance(self.score, str) else self.score or Magnitude()
        if not isinstance(score, Score):
            raise UsageError(f"OneShot got score={self.score!r}; accepted is a Score, or the name of one.")
        if score.needs:
            raise UnsupportedError(
                f"OneShot got score={score}, which looks at data; accepted with Keras are magnitude and random."
            )
        object.__setattr__(self, "score", score)

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        state.check_finite()
        assert isinstance(self.score, Score)
        scores: dict[str, Any] = {layer.name: score_layer(state, layer, self.score) for layer in state.layers}
        self.keep_best(state, scores, self.target_sparsity)
