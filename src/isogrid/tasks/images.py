"""Images, start to finish: a small residual convolutional net on Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from isogrid.tasks.fashion_mnist import FashionMNIST
from isogrid.tasks.task import Recipe, ShuffledBatches, Split

_FULL = Recipe(
    epochs=2, rung_epochs=6, lr=3e-3, optimizer="adamw", weight_decay=0.03, distill=0.7, ladder=(0.9, 0.95),
)  # fmt: skip
_FAST = Recipe(
    epochs=3, rung_epochs=3, lr=3e-3, optimizer="adamw", weight_decay=0.03, distill=0.7, ladder=(0.9, 0.95),
)  # fmt: skip
_SMOKE = Recipe(epochs=2, rung_epochs=2, lr=4e-3, distill=0.5, ladder=(0.75, 0.9))
_SIZES = {"smoke": {"train": 1_500, "validation": 500, "test": 500}, "fast": {"train": 20_000, "validation": 4_000}}
"""How many images of a split a setting takes, the first ones; all of them where nothing is said."""
_CHANNELS = {"smoke": (16, 32, 64), "fast": (24, 48, 96), "full": (32, 80, 160)}
_HIDDEN = {"smoke": 32, "fast": 64, "full": 256}
_SHIFT = 1
"""The most pixels by which a training image is moved, in each direction."""


class Images(FashionMNIST):
    """A residual net (He et al. 2016, arXiv:1512.03385) of 1.1 million weights on Fashion-MNIST, with its splits.

    Training images are mirrored at random and moved by up to a pixel.  The net is smaller in the shorter settings.
    """

    name = "images"
    summary = "images of clothing (Debian package dataset-fashion-mnist); small residual convolutional net"
    batch_size = 128
    recipe = _FAST
    settings: ClassVar = {"smoke": _SMOKE, "fast": _FAST, "full": _FULL}

    def model(self) -> nn.Module:
        setting = self.setting or "fast"
        # Channels last: the same numbers, and training is faster.
        net = ResidualNet(_CHANNELS[setting], _HIDDEN[setting])
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # not in its stub

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        images, labels = super().data(split)
        size = _SIZES.get(self.setting or "fast", {}).get(split)
        return images[:size], labels[:size]

    def batches(self) -> Augmented:
        return Augmented(*self.data("train"), batch_size=self.batch_size)

    def image_shape(self) -> None:  # type: ignore[override]
        return None


class ResidualNet(nn.Sequential):
    """A strided first layer, two residual blocks, a grid of means, a hidden layer, and a classifier.

    Args:
        channels: of the first layer and of the two blocks; each of the three halves the image.
        hidden: units of the hidden layer, which sees where on the image something is.
        classes: how many answers.
        colours: channels of the input: 1 for grey, 3 for colour.

    It takes images ``[n, colours, height, width]`` of any size and gives scores ``[n, classes]``: what the blocks
    found is averaged over a grid of 4 x 4 fields.  Of 28 x 28 pixels nothing else is left, so that nothing is averaged.

    >>> ResidualNet()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    _GRID = 4

    def __init__(
        self, channels: tuple[int, int, int] = (32, 80, 160), hidden: int = 128, classes: int = 10, colours: int = 1
    ) -> None:
        first, second, third = channels
        super().__init__(
            nn.Conv2d(colours, first, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(first), nn.ReLU(),
            Residual(first, second, stride=2), Residual(second, third, stride=2),
            Fields(self._GRID), nn.Flatten(),
            nn.Linear(third * self._GRID**2, hidden), nn.ReLU(), nn.Linear(hidden, classes),
        )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions, added to what came in: ``relu(norm(conv(relu(norm(conv(x))))) + skip(x))``.

    The skip is the identity, or a 1 x 1 convolution with a norm where channels or size change.

    >>> Residual(4, 8, stride=2)(torch.zeros(1, 4, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.skip: nn.Module = nn.Identity()
        if before != after or stride != 1:
            self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.skip(x))


class Fields(nn.Module):
    """The means over a grid of fields; what is of that size already is passed on.

    >>> Fields(2)(torch.eye(4)[None, None]).tolist()
    [[[[0.5, 0.0], [0.0, 0.5]]]]
    """

    def __init__(self, grid: int) -> None:
        super().__init__()
        self._grid = grid

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[-2:] == (self._grid,) * 2 else nn.functional.adaptive_avg_pool2d(x, self._grid)


class Augmented(ShuffledBatches):
    """Shuffled batches ``(images, labels)``, each image mirrored with one half's chance and moved by a few pixels.

    All comes from torch's generator.  What moves in at an edge is the image's own edge.

    >>> batches = Augmented(torch.zeros(6, 1, 28, 28), torch.zeros(6), batch_size=4)
    >>> [tuple(images.shape) for images, labels in batches]
    [(4, 1, 28, 28), (2, 1, 28, 28)]
    """

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for images, *rest in super().__iter__():
            yield (_moved(images), *rest)


def _moved(images: Tensor) -> Tensor:
    samples, colours, height, width = images.shape
    padded = nn.functional.pad(images, (_SHIFT,) * 4, mode="replicate")
    down, right = torch.randint(2 * _SHIFT + 1, (2, samples, 1))
    rows = (down + torch.arange(height))[:, None, :, None]
    columns = right + torch.arange(width)
    columns = torch.where(torch.rand(samples, 1) < 0.5, columns.flip(1), columns)[:, None, None, :]
    each, colour = torch.arange(samples)[:, None, None, None], torch.arange(colours)[None, :, None, None]
    return padded[each, colour, rows, columns]
