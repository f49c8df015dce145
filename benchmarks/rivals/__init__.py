"""Everyone who can run a layer or a model: one file each, with one small interface.

Threads, layouts and conversions are settled while a rival prepares.  The number of PyTorch's own threads is set before
a call, not in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

Example = tuple[Tensor, ...]


@dataclass(frozen=True)
class Setting:
    """One way to run.

    Attributes:
        label: as a table shows it.
        values: how weights are stored: what is not ``"fp32"`` is a contestant of its own.
        options: for ``prepare``.
    """

    label: str
    values: str = "fp32"
    options: Mapping[str, Any] = field(default_factory=dict)


class Rival(ABC):
    """What a file here offers."""

    name: str
    """As tables show it."""

    @abstractmethod
    def settings(self, model: nn.Module, example: Example, thorough: bool) -> list[Setting]:
        """What it is swept over for such work; nothing if it cannot do it."""

    @abstractmethod
    def prepare(
        self, model: nn.Module, example: Example, threads: int, values: str = "fp32", **options: Any
    ) -> Callable[[], Any]:
        """A call without arguments that computes the model's output on the example; only this is timed."""


DENSE = ("eager", "compiled", "onnxruntime", "openvino")
ALL = (*DENSE, "csr")


def rival(name: str) -> Rival:
    """By the name of its file."""
    return cast(Rival, import_module(f"benchmarks.rivals.{name}").RIVAL)


class FeatureMajor(nn.Module):
    """``W X`` for activations that lie feature by feature, ``[columns, samples]``: a linear layer without a bias."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight

    def forward(self, x: Tensor) -> Tensor:
        """``[columns, samples]`` to ``[rows, samples]``."""
        return self.weight @ x


def is_channels_last(example: Example) -> bool:
    """Whether the images lie channels last, which is a setting of PyTorch's and no other library's."""
    x = example[0]
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
