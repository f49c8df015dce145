"""Which units and channels carry a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isogrid.explain.ranks import rank_correlation
from isogrid.explain.watching import contributions
from isogrid.masks import find_targets
from isogrid.tasks import Task

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class UnitRow:
    """The output units (channels of convolutions) of one layer.

    Attributes:
        layer: its name.
        units: how many it has.
        idle: those whose output changes the loss of no sample that was looked at.
        half: how many of the strongest units carry half of the layer's importance.
        strongest: positions of the strongest units, the first the strongest.
        like_dense: rank correlation of the units' importance with the same layer's in the dense model; None where it
            is not defined.
    """

    layer: str
    units: int
    idle: int
    half: int
    strongest: tuple[int, ...]
    like_dense: float | None


def unit_importance(task: Task, model: nn.Module, batches: Iterable[Any]) -> dict[str, NDArray[np.float64]]:
    """How much the loss depends on each output unit of the layers that may be pruned, by layer.

    The mean over samples of ``|sum over places of output times gradient|`` (Molchanov et al. 2019, arXiv:1906.10771).

    >>> from isogrid.tasks import load_task
    >>> task = load_task("digits")
    >>> unit_importance(task, task.model(), task.samples("validation"))["0"].shape
    (100,)
    """
    totals: dict[str, Tensor] = {}
    samples: dict[str, int] = {}
    names = {}
    for target in find_targets(model, task.targets, task.ignore):
        name = target.name.rpartition(".")[0]
        module = model.get_submodule(name)
        if isinstance(module, (nn.Linear, nn.RNNBase, nn.MultiheadAttention, *_CONVOLUTIONS)):
            names[module] = name

    def seen_by(module: nn.Module, name: str) -> Any:
        def seen(_: Any, product: Tensor) -> None:
            places = product.movedim(1, -1) if isinstance(module, _CONVOLUTIONS) else product
            # A sample is a row of axis 0; recurrent layers with time first mix the two, which only the mean sees.
            each = places.reshape(len(places), -1, places.shape[-1]).sum(dim=1).abs()
            totals[name] = totals.get(name, torch.zeros(each.shape[1], dtype=each.dtype)) + each.sum(dim=0)
            samples[name] = samples.get(name, 0) + len(each)

        return seen

    contributions(task, model, batches, {module: seen_by(module, name) for module, name in names.items()})
    return {name: (totals[name] / samples[name]).numpy() for name in totals}


def unit_rows(dense: dict[str, NDArray[np.float64]], sparse: dict[str, NDArray[np.float64]]) -> list[UnitRow]:
    """A row a layer, of what `unit_importance` gave for both models."""
    rows = []
    for name, importance in sparse.items():
        order = np.argsort(-importance, kind="stable")
        carried = np.cumsum(importance[order])
        half = int(np.searchsorted(carried, carried[-1] / 2) + 1) if carried[-1] > 0 else 0
        before = dense.get(name)
        alike = None if before is None or len(before) != len(importance) else rank_correlation(before, importance)
        idle = int((importance == 0).sum())
        rows.append(UnitRow(name, len(importance), idle, half, tuple(map(int, order[:5])), alike))
    return rows
