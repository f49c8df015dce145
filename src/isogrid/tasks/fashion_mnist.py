"""Fashion-MNIST: 70,000 grey images of clothing, 28 x 28 pixels (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747)."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from isogrid.errors import DataError
from isogrid.tasks.idx import read_idx
from isogrid.tasks.task import ClassificationTask, Recipe, Split

_DEBIAN = "/usr/share/datasets/fashion-mnist"
_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_VALIDATION = 10_000


class FashionMNIST(ClassificationTask):
    """LeNet-300-100 (LeCun et al. 1998, section III) on Fashion-MNIST.

    Of the 60,000 training images 10,000, drawn once, are the validation split; the 10,000 test images only confirm.
    """

    name = "fashion-mnist"
    summary = "images of clothing, 28 x 28 pixels (Debian package dataset-fashion-mnist); LeNet-300-100"
    batch_size = 128
    recipe = Recipe(
        epochs=60, rung_epochs=20, lr=0.05, optimizer="sgd", weight_decay=5e-4, distill=0.9, teachers=5,
        ladder=(0.9, 0.95, 0.97, 0.98, 0.985, 0.99),
    )  # fmt: skip

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
        )

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        return _splits(_folder())[split]

    def class_names(self) -> tuple[str, ...]:
        return _CLASSES

    def image(self, split: Split, index: int) -> Any:
        return self.data(split)[0][index, 0].numpy()

    def image_shape(self) -> tuple[int, int]:
        return (28, 28)


class FashionMNISTConv(FashionMNIST):
    """A small convolutional net on Fashion-MNIST."""

    name = "fashion-mnist-conv"
    summary = "the same images; a small convolutional net"
    recipe = Recipe(epochs=10, rung_epochs=5, lr=2e-3, distill=0.7, ladder=(0.75, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99))

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip

    def image_shape(self) -> None:  # type: ignore[override]
        return None


def _folder() -> Path:
    """The folder with the four idx files."""
    folder = Path(os.environ.get("ISOGRID_FASHION_MNIST") or _DEBIAN)
    if _find(folder, "train-images-idx3-ubyte") is not None:
        return folder
    raise DataError(
        f"Fashion-MNIST is not in {folder}; install it with: apt-get install dataset-fashion-mnist, or name a "
        "folder that holds its four idx files in the environment variable ISOGRID_FASHION_MNIST."
    )


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _load(folder: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        path = _find(folder, f"{part}-{kind}-ubyte")
        if path is None:
            raise DataError(f"{folder} lacks {part}-{kind}-ubyte(.gz); Fashion-MNIST is four idx files in one folder.")
        arrays.append(read_idx(path))
    images, labels = arrays
    if images.shape != (len(labels), 28, 28):
        raise DataError(
            f"{folder} holds images of shape {images.shape} for {len(labels)} labels; accepted is (n, 28, 28)."
        )
    return images, labels


@lru_cache(maxsize=2)
def _splits(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    images, labels = _load(folder, "train")
    order = np.random.default_rng(0).permutation(len(labels))
    validation, train = order[:_VALIDATION], order[_VALIDATION:]
    mean, deviation = float(images[train].mean()) / 255, float(images[train].std()) / 255

    def tensors(x: npt.NDArray[np.uint8], y: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        inputs = torch.from_numpy(x.astype(np.float32)).div_(255).sub_(mean).div_(deviation).unsqueeze_(1)
        return inputs, torch.from_numpy(y.astype(np.int64))

    return {
        "train": tensors(images[train], labels[train]),
        "validation": tensors(images[validation], labels[validation]),
        "test": tensors(*_load(folder, "t10k")),
    }
