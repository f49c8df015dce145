"""A task as a user writes one, small enough to run to its end in a second: three clouds of points in 12 dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isogrid import ClassificationTask, Recipe


class Clouds(ClassificationTask):
    """It draws random numbers in training (dropout) and has buffers (batch norm), so that resuming must keep both."""

    name = "clouds"
    summary = "three clouds of points"
    batch_size = 32
    recipe = Recipe(epochs=3, rung_epochs=2, lr=1e-2, distill=0.5, ladder=(0.5, 0.8, 0.95))

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))

    def data(self, split: str) -> tuple[Tensor, Tensor]:
        size = {"train": 160, "validation": 96, "test": 96}[split]
        generator = torch.Generator().manual_seed({"train": 1, "validation": 2, "test": 3}[split])
        labels = torch.randint(3, (size,), generator=generator)
        centres = torch.eye(3, 12)
        return centres[labels] * 3 + torch.randn(size, 12, generator=generator), labels
