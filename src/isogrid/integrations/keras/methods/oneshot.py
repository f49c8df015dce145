"""One-shot pruning of a trained Keras model, without retraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isogrid.errors import UnsupportedError
from isogrid.integrations.keras.methods.base import Aimed
from isogrid.integrations.keras.state import SparseState
from isogrid.rules.method import Usage
from isogrid.rules.scoring import ByScore


@dataclass(frozen=True)
class OneShot(ByScore, Aimed):
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

    usage: ClassVar[Usage] = Usage.AFTER
    default_score: ClassVar[str] = "magnitude"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_score.needs:
            raise UnsupportedError(
                f"OneShot got score={self.score}, which looks at data; accepted with Keras are magnitude and random."
            )

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        self.prune_at_once(state)
