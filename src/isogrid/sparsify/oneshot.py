"""One-shot pruning of a trained model, without retraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isogrid.rules.method import Usage
from isogrid.sparsify.method import register_method
from isogrid.sparsify.scoring import Scoring
from isogrid.sparsify.state import SparseState


@register_method("one_shot")
@dataclass(frozen=True)
class OneShot(Scoring):
    """One-shot pruning: the weights of lowest score become zero at once.

    Source: Han et al. 2015, arXiv:1506.02626, without the retraining; other scores have their own.  Scores that look at
    more than the weights need data, and those that look at gradients its loss.

    Attributes:
        score: what ranks the weights, a `Score` or its name; magnitude by default.

    >>> OneShot(pattern="2:4").sparsity
    0.5
    >>> import torch
    >>> from isogrid.sparsify import prune
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(8, 3)
    >>> prune(model, OneShot(sparsity=0.75, score="taylor"), data=[(torch.randn(16, 8), torch.arange(16) % 3)]).sparsity
    0.75
    """

    usage: ClassVar[Usage] = Usage.AFTER
    default_score: ClassVar[str] = "magnitude"

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        self.prune_by_score(state, untrained=False)
