"""Texts of different lengths in batches without much padding, and a task that classifies them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from isogrid.metrics import Outcomes
from isogrid.tasks.task import Split, Task

PADDING = 0
"""The token that fills short texts up; a model must give it no weight."""
_POOL = 32
"""Batches that are drawn together and sorted by length among themselves."""
_EVALUATED = 256
"""Texts that are answered at a time."""
_SUMS = 512


class TokenTexts:
    """Texts as numbers: int64 ``[texts, longest]``, filled up with `PADDING`, and how long each of them is.

    >>> texts = TokenTexts([[5, 6, 7], [8]])
    >>> texts.batch(torch.tensor([1]))
    tensor([[8]])
    """

    def __init__(self, encoded: Sequence[Sequence[int]]) -> None:
        self.lengths = torch.tensor([len(tokens) for tokens in encoded])
        self._tokens = torch.full((len(encoded), int(self.lengths.max())), PADDING)
        for row, tokens in zip(self._tokens, encoded, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, chosen: Tensor) -> Tensor:
        """The chosen texts, as long as the longest of them."""
        return self._tokens[chosen, : int(self.lengths[chosen].max())]


class LengthBatches:
    """Batches ``(tokens, labels)`` of texts of about the same length, drawn anew by torch's generator in each pass.

    Texts are shuffled, cut into pools of some batches, and sorted by length inside each; then the batches are shuffled.
    Every text comes once a pass; one batch may be smaller.

    >>> batches = LengthBatches(TokenTexts([[1], [1, 2], [1]]), torch.tensor([0, 1, 2]), batch_size=2)
    >>> len(batches), sum(len(labels) for _, labels in batches)
    (2, 3)
    """

    def __init__(self, texts: TokenTexts, labels: Tensor, *, batch_size: int) -> None:
        self._texts, self._labels, self._batch_size = texts, labels, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._texts) / self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches: list[Tensor] = []
        for pool in torch.split(torch.randperm(len(self._texts)), _POOL * self._batch_size):
            ordered = pool[torch.argsort(self._texts.lengths[pool], stable=True)]
            batches += torch.split(ordered, self._batch_size)
        for index in torch.randperm(len(batches)).tolist():
            chosen = batches[index]
            yield self._texts.batch(chosen), self._labels[chosen]


class TextTask(Task):
    """Classification of texts by a model of ``tokens``, int64 ``[batch, length]``: fill in `texts` and `model`.

    >>> from torch import nn
    >>> class Lengths(TextTask):
    ...     name, summary = "lengths", "whether a text has two tokens"
    ...     def texts(self, split): return TokenTexts([[1], [1, 1]]), torch.tensor([0, 1])
    ...     def model(self): return nn.Sequential(nn.Embedding(2, 2), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten())
    >>> Lengths().evaluate(Lengths().model(), "test").samples
    2
    """

    batch_size: ClassVar[int] = 64

    @abstractmethod
    def texts(self, split: Split) -> tuple[TokenTexts, Tensor]:
        """The texts of a split, and their labels, int64 ``[texts]``.  Called often: keep what was loaded."""

    def batches(self) -> LengthBatches:
        return LengthBatches(*self.texts("train"), batch_size=self.batch_size)

    def evaluate(self, model: nn.Module, split: Split) -> Outcomes:
        texts, labels = self.texts(split)
        predicted = np.empty(len(texts), dtype=np.int64)
        for chosen in torch.split(torch.argsort(texts.lengths, stable=True), _EVALUATED):
            predicted[chosen.numpy()] = model(texts.batch(chosen)).argmax(dim=1).cpu().numpy()
        return Outcomes.of_classes(predicted, labels.numpy())

    def samples(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        texts, labels = self.texts(split)
        for chosen in torch.split(torch.arange(len(texts)), _EVALUATED):
            yield texts.batch(chosen), labels[chosen]

    def features(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """How often each token is in a text, 512 sums over tokens that share a remainder, of length 1."""
        tokens = batch[0]
        counts = torch.zeros(len(tokens), _SUMS).scatter_add_(1, tokens % _SUMS, (tokens != PADDING).float())
        return nn.functional.normalize(counts)

    def example(self) -> tuple[Tensor, ...]:
        """Four texts of the validation split, of middle length."""
        texts, _ = self.texts("validation")
        middle = len(texts) // 2
        return (texts.batch(torch.argsort(texts.lengths, stable=True)[middle : middle + 4]),)

    def free_axes(self) -> Mapping[str, Mapping[int, str]]:
        return {"tokens": {1: "length"}}
