"""Several trained models that answer as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Ensemble:
    """Frozen models whose answers are averaged: the teacher of the rungs.

    The dense baseline is trained in cycles of the learning rate, and each cycle ends in another minimum; their mean
    answer is better than any one of them (Huang et al. 2017, "Snapshot Ensembles", arXiv:1704.00109).  A student of
    few weights gains more from it than from a single teacher.

    >>> first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> answer = Ensemble([first, second]).answer(lambda model: model(torch.ones(1, 2)))
    >>> torch.allclose(answer, (first(torch.ones(1, 2)) + second(torch.ones(1, 2))) / 2)
    True
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        self.members = [member.eval().requires_grad_(False) for member in members]

    def __len__(self) -> int:
        return len(self.members)

    def answer(self, forward: Callable[[nn.Module], Tensor]) -> Tensor:
        """The mean of what `forward` gives for each member, without gradients."""
        with torch.no_grad():
            answers = [forward(member) for member in self.members]
            return answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)
