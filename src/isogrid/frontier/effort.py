"""What training costs in arithmetic: floating-point operations, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from isogrid.flops import FlopCount, count_flops
from isogrid.masks import find_targets
from isogrid.sparsify import ShadowMethod, Sparsifier
from isogrid.tasks import Task


class Effort:
    """Adds up the operations of training steps, with the zeros that the masks hold taken off.

    One forward pass is counted on the task's example and taken for every sample: where samples differ in size, it is
    an estimate.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._count: FlopCount = count_flops(
            model, task.example(), targets=find_targets(model, task.targets, task.ignore)
        )
        self._seen: tuple[int, dict[str, float]] | None = None

    def forget(self) -> None:
        """A new phase begins: its sparsifier counts its changes from nought."""
        self._seen = None

    def step(self, sparsifier: Sparsifier | None, batch: Any, teachers: int) -> float:
        """What the step that comes next costs: forward, backward, and the answers of so many dense teachers."""
        densities, dense_gradients, trained = self._densities(sparsifier), False, None
        if sparsifier is not None:
            method, state = sparsifier.method, sparsifier.state
            dense_gradients = method.gradients(state) == "dense"
            if isinstance(method, ShadowMethod):
                trained = {layer.name: method.trained_share(state, layer) for layer in state.layers}
        one = self._count.training_step(densities, dense_gradients=dense_gradients, trained=trained)
        one += teachers * self._count.dense
        return one * samples_of(batch) / self._count.samples

    def _densities(self, sparsifier: Sparsifier | None) -> dict[str, float]:
        if sparsifier is None:
            return {}
        state = sparsifier.state
        if self._seen is None or self._seen[0] != state.changes:
            found = {layer.name: layer.active / layer.size if layer.size else 1.0 for layer in state.layers}
            self._seen = (state.changes, found)
        return self._seen[1]


def samples_of(batch: Any) -> int:
    """How many samples a batch holds, as far as its first tensor tells; 1 where there is none.

    >>> import torch
    >>> samples_of({"tokens": torch.zeros(8, 3)}), samples_of("text")
    (8, 1)
    """
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    return next((len(part) for part in parts if isinstance(part, Tensor) and part.dim() > 0), 1)
