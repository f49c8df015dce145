"""Which weights stay of the columns that a sweep has reached."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from isogrid.errors import PatternError
from isogrid.masks import zero_pruned_
from isogrid.patterns import Block, Channel, FanIn, NofM, Pattern, Unstructured
from isogrid.sparsify.calibrated.matrix import MatrixView

_UNSTRUCTURED = Unstructured()


class Choice(ABC):
    """Chooses among the weights of `width` columns at a time, from the first to the last.

    Every choice is made of scores ``[columns, outputs]``, never negative, among the weights that are still active;
    together they keep exactly what the pattern would keep of the whole weight.
    """

    width: int

    @abstractmethod
    def keep(self, scores: Tensor, active: Tensor) -> Tensor:
        """Which of `active` weights stay, bool ``[columns, outputs]``.  `scores` may be overwritten."""


class Tiles(Choice):
    """Tiles of `outputs` x `columns` weights, of all outputs together; 1 x 1 for single weights.

    Each choice keeps the same share of the tiles that still have an active weight.
    """

    def __init__(self, outputs: int, columns: int, keep: int, active: Tensor, block_size: int) -> None:
        self.width = max(columns, block_size // columns * columns)
        self._outputs, self._columns = outputs, columns
        self._all = int(torch.count_nonzero(self._tiles(active).any(dim=3).any(dim=1)))
        self._keep = min(keep // (outputs * columns), self._all)
        self._seen = self._kept = 0

    def keep(self, scores: Tensor, active: Tensor) -> Tensor:
        alive = self._tiles(active).any(dim=3).any(dim=1)
        pooled = self._tiles(zero_pruned_(scores, active)).sum(dim=(1, 3)).masked_fill_(~alive, -1)
        self._seen += int(torch.count_nonzero(alive))
        upto = self._keep * self._seen // max(1, self._all)
        kept = torch.from_numpy(_UNSTRUCTURED.mask(pooled.cpu().numpy(), upto - self._kept)).to(active.device)
        self._kept = upto
        if self._outputs * self._columns > 1:
            kept = kept.repeat_interleave(self._columns, dim=0).repeat_interleave(self._outputs, dim=1)
        return kept & active

    def _tiles(self, columns: Tensor) -> Tensor:
        down, across = columns.shape
        return columns.reshape(down // self._columns, self._columns, across // self._outputs, self._outputs)


class PerOutput(Choice):
    """The same number of weights of every output; each choice keeps the same share of an output's active ones."""

    def __init__(self, keep: int, active: Tensor, block_size: int) -> None:
        self.width = block_size
        self._all = active.sum(dim=0)
        self._keep = self._all.clamp(max=keep)
        self._seen = torch.zeros_like(self._all)
        self._kept = torch.zeros_like(self._all)

    def keep(self, scores: Tensor, active: Tensor) -> Tensor:
        self._seen += active.sum(dim=0)
        upto = self._keep * self._seen // self._all.clamp(min=1)
        quota = upto - self._kept
        self._kept = upto
        return _highest(scores, active, quota)


class InRuns(Choice):
    """`keep` weights of every run of `of` columns."""

    def __init__(self, keep: int, of: int) -> None:
        self.width = of
        self._quota = keep

    def keep(self, scores: Tensor, active: Tensor) -> Tensor:
        return _highest(scores, active, torch.tensor(self._quota, device=scores.device))


def choice_for(pattern: Pattern, view: MatrixView, keep: int, active: Tensor, block_size: int) -> Choice:
    """How a sweep chooses in a pattern.

    Args:
        pattern: one that `check_sweepable` lets pass.
        view: how the columns come of the weight.
        keep: the most weights that may stay of the whole weight.
        active: those that are active before, bool ``[K, outputs]``.
        block_size: about how many columns to choose among at a time, where the pattern leaves it open.
    """
    outputs = view.shape[0]
    if isinstance(pattern, NofM):
        return InRuns(keep * pattern.of // active.numel(), pattern.of)
    if isinstance(pattern, FanIn):
        return PerOutput(keep // outputs, active, block_size)
    if isinstance(pattern, Block):
        return Tiles(pattern.rows, pattern.cols, keep, active, block_size)
    if isinstance(pattern, Channel):
        return Tiles(outputs, view.places, keep, active, block_size)
    return Tiles(1, 1, keep, active, block_size)


def check_sweepable(owner: str, pattern: Pattern) -> None:
    """Refuse patterns in which a column-by-column choice is not possible.

    Raises:
        PatternError: `pattern` is of another kind than unstructured, N:M, block, channel or fan_in.
    """
    if type(pattern) not in (Unstructured, NofM, Block, Channel, FanIn):
        raise PatternError(
            f"{owner} got pattern {pattern}; it chooses column by column, so accepted are unstructured, N:M, block, "
            "channel and fan_in."
        )


def _highest(scores: Tensor, active: Tensor, quota: Tensor) -> Tensor:
    """In each column of a matrix the `quota` highest scores of active weights, ties to the upper."""
    order = scores.masked_fill_(~active, -1).argsort(dim=0, descending=True, stable=True)
    ranks = torch.arange(len(scores), device=scores.device)[:, None]
    kept = torch.empty_like(active).scatter_(0, order, (ranks < quota).expand_as(order))
    return kept & active
