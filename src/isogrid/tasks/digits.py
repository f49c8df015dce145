"""Handwritten digits of 8 x 8 pixels, embedded in scikit-learn: the demo's task."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isogrid.errors import MissingDependencyError
from isogrid.tasks.task import ClassificationTask, Recipe, Split


class Digits(ClassificationTask):
    """1,797 digits by 43 writers (Alpaydin and Kaynak 1998), an MLP with one hidden layer of 100.

    The splits are 60 / 20 / 20 %, drawn once, stratified by class: 1,077 to train on, 360 to choose and 360 to confirm.
    """

    name = "digits"
    summary = "handwritten digits, 8 x 8 pixels (in scikit-learn); MLP 64-100-10"
    batch_size = 64
    recipe = Recipe(epochs=40, rung_epochs=12, lr=3e-3)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        return _splits()[split]

    def class_names(self) -> list[str]:
        return [str(digit) for digit in range(10)]

    def image(self, split: Split, index: int) -> Any:
        return self.data(split)[0][index].reshape(8, 8).numpy()

    def image_shape(self) -> tuple[int, int]:
        return (8, 8)


@lru_cache(maxsize=1)
def _splits() -> dict[str, tuple[Tensor, Tensor]]:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise MissingDependencyError(
            "The digits come with scikit-learn, which is not installed; install it with: pip install 'isogrid[tasks]'."
        ) from None
    images, labels = load_digits(return_X_y=True)
    everything = np.arange(len(labels))
    rest, test = train_test_split(everything, test_size=360, random_state=0, stratify=labels)
    train, validation = train_test_split(rest, test_size=360, random_state=0, stratify=labels[rest])
    inputs = torch.tensor(images / 16.0, dtype=torch.float32)
    classes = torch.tensor(labels, dtype=torch.int64)
    picked = {"train": train, "validation": validation, "test": test}
    return {split: (inputs[index], classes[index]) for split, index in picked.items()}
