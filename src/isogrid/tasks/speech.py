"""Speech, start to finish: spoken digits, recognised by a small convolutional net and by a GRU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from isogrid.metrics import Outcomes
from isogrid.tasks.mel import BANDS
from isogrid.tasks.spoken_digits import WORDS, Amounts, Spoken, spoken_digits
from isogrid.tasks.task import Recipe, Split, Task

_AMOUNTS = {
    "smoke": Amounts(speakers=(6, 4), takes=(1, 1), copies=1),
    "fast": Amounts(speakers=(20, None), takes=(1, 2), copies=3),
    "full": Amounts(speakers=(None, None), takes=(1, 4), copies=2),
}
_FULL = Recipe(epochs=6, rung_epochs=8, lr=3e-3, rung_lr=2e-3, distill=0.5, ladder=(0.8, 0.9, 0.95))
_FAST = Recipe(epochs=8, rung_epochs=3, lr=3e-3, rung_lr=2e-3, distill=0.5, ladder=(0.75, 0.9, 0.95))
_SMOKE = Recipe(epochs=10, rung_epochs=4, lr=4e-3, distill=0.5, ladder=(0.75, 0.9))


class Speech(Task):
    """The digits 0 to 9, said by many voices of espeak-ng; a convolutional net over time.

    The splits share no accent and no speaker (`isogrid.tasks.voices`); recordings of a woman are beside them
    (`isogrid.tasks.spoken_digits.human_digits`).  Utterances differ in length: the model takes ``(features, lengths)``,
    and what stands behind an utterance's end changes no answer.
    """

    name = "speech"
    summary = "spoken digits by many voices (made by Debian's espeak-ng); convolutional net over log-mel features"
    recipe = _FAST
    settings: ClassVar = {"smoke": _SMOKE, "fast": _FAST, "full": _FULL}
    batch_size: ClassVar[int] = 64

    def model(self) -> nn.Module:
        return SpeechConv()

    def data(self, split: Split) -> Spoken:
        """A split's utterances, as many as the setting takes."""
        return spoken_digits(_AMOUNTS[self.setting or "fast"])[split]

    def batches(self) -> BatchesByLength:
        return BatchesByLength(self.data("train"), self.batch_size)

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        features, lengths, _ = batch
        answer: Tensor = model(features, lengths)
        return answer

    def loss(self, answer: Tensor, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(answer, batch[2])

    def evaluate(self, model: nn.Module, split: Split) -> Outcomes:
        return recognised(model, self.data(split))

    def example(self) -> tuple[Tensor, ...]:
        spoken = self.data("validation")
        return spoken.features[:4].clone(), spoken.lengths[:4].clone()

    def free_axes(self) -> dict[str, dict[int, str]]:
        return {"features": {1: "frames"}}

    def samples(self, split: Split) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        spoken = self.data(split)
        for picked in torch.split(torch.arange(len(spoken.lengths)), 512):
            yield (*_cut(spoken, picked), spoken.labels[picked])

    def features(self, batch: Any) -> Tensor:
        """The mean and the spread of each band over an utterance's frames."""
        features, lengths, _ = batch
        mean = mean_over(features, lengths)
        return torch.cat([mean, mean_over((features - mean[:, None]) ** 2, lengths).sqrt()], dim=1)

    def classes(self, batch: Any) -> Tensor:
        labels: Tensor = batch[2]
        return labels

    def input_names(self, group: str) -> list[str]:
        return [f"band {band + 1} of {BANDS}, from low to high" for band in range(BANDS)]

    def class_names(self) -> tuple[str, ...]:
        return WORDS


class SpeechGRU(Speech):
    """The same digits, heard frame by frame: a GRU (Cho et al. 2014, arXiv:1406.1078)."""

    name = "speech-gru"
    summary = "the same spoken digits; GRU, which can listen to a live sound"
    recipe = _FAST.with_(rung_epochs=6)
    settings: ClassVar = {"smoke": _SMOKE, "fast": recipe, "full": _FULL}

    def model(self) -> nn.Module:
        return SpeechRecurrent()

    def free_axes(self) -> dict[str, dict[int, str]]:
        return {}  # PyTorch's exporter takes the number of a GRU's steps for fixed, depending on what ran before


class SpeechConv(nn.Module):
    """Four causal convolutions over time, the mean over an utterance's frames, and a classifier.

    The silence that the convolutions need before the first frame is put there once, so that there are as many frames
    after them as before, and none depends on a later one: behind the end of an utterance may stand anything.

    Args:
        channels: of each convolution, whose kernel is 5 frames (0.1 s).
        classes: how many answers.

    >>> SpeechConv()(torch.zeros(2, 30, 40), torch.tensor([30.0, 12.0])).shape
    torch.Size([2, 10])
    """

    _KERNEL = 5

    def __init__(self, channels: tuple[int, ...] = (64, 64, 96, 96), classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((BANDS, *channels), channels, strict=False):
            layers += [nn.Conv1d(before, after, self._KERNEL, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.silence = (self._KERNEL - 1) * len(channels)
        self.classifier = nn.Linear(channels[-1], classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Scores ``[n, classes]`` of features ``[n, frames, 40]``, of which the first ``lengths`` ``[n]`` count."""
        heard = nn.functional.pad(features.transpose(1, 2), (self.silence, 0))
        answer: Tensor = self.classifier(mean_over(self.layers(heard).transpose(1, 2), lengths))
        return answer


class SpeechRecurrent(nn.Module):
    """A GRU, the mean of its states over an utterance's frames, and a classifier.

    >>> SpeechRecurrent()(torch.zeros(2, 30, 40), torch.tensor([30.0, 12.0])).shape
    torch.Size([2, 10])
    """

    def __init__(self, hidden: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.gru = nn.GRU(BANDS, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """As `SpeechConv.forward`."""
        states, _ = self.gru(features)
        answer: Tensor = self.classifier(mean_over(states, lengths))
        return answer


def mean_over(states: Tensor, lengths: Tensor) -> Tensor:
    """The mean of ``states`` ``[n, frames, channels]`` over the first ``lengths`` ``[n]`` frames of each.

    >>> mean_over(torch.tensor([[[1.0], [3.0], [50.0]]]), torch.tensor([2.0]))
    tensor([[2.]])
    """
    counted = torch.arange(states.shape[1])[None, :, None] < lengths[:, None, None]
    return torch.where(counted, states, 0.0).sum(dim=1) / lengths[:, None]


def recognised(model: nn.Module, spoken: Spoken) -> Outcomes:
    """Which utterances `model` gets right; those of like lengths go together, so that little padding is computed.

    >>> heard = Spoken(torch.zeros(3, 9, 40), torch.tensor([9.0, 4.0, 7.0]), torch.tensor([0, 1, 2]), ("a", "b", "c"))
    >>> recognised(SpeechConv().eval(), heard).samples
    3
    """
    answers = torch.empty(len(spoken.lengths), dtype=torch.int64)
    for picked in torch.split(spoken.lengths.argsort(stable=True), 256):
        features, lengths = _cut(spoken, picked)
        answers[picked] = model(features, lengths).argmax(dim=1)
    return Outcomes.of_classes(answers.numpy(), spoken.labels.numpy())


class BatchesByLength:
    """Shuffled batches ``(features, lengths, labels)`` of utterances of like lengths, each cut to its longest one.

    Lots of sixteen batches are drawn by torch's generator and sorted by length; the batches of all lots are shuffled.

    >>> heard = Spoken(torch.zeros(3, 9, 40), torch.tensor([9.0, 4.0, 7.0]), torch.tensor([0, 1, 2]), ("a", "b", "c"))
    >>> sorted(tuple(features.shape) for features, lengths, labels in BatchesByLength(heard, 2))
    [(1, 9, 40), (2, 7, 40)]
    """

    _LOT = 16

    def __init__(self, spoken: Spoken, batch_size: int) -> None:
        self._spoken, self._batch_size = spoken, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._spoken.lengths) / self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        lengths = self._spoken.lengths
        batches: list[Tensor] = []
        for lot in torch.split(torch.randperm(len(lengths)), self._LOT * self._batch_size):
            batches += torch.split(lot[lengths[lot].argsort(stable=True)], self._batch_size)
        for at in torch.randperm(len(batches)).tolist():
            yield (*_cut(self._spoken, batches[at]), self._spoken.labels[batches[at]])


def _cut(spoken: Spoken, picked: Tensor) -> tuple[Tensor, Tensor]:
    lengths = spoken.lengths[picked]
    return spoken.features[picked, : int(lengths.max())], lengths
