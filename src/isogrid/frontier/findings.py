"""What the report shows of two PyTorch models beside their numbers: layers, inputs, activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from isogrid.activity import measure
from isogrid.errors import IsogridError
from isogrid.formats.weights import to_numpy
from isogrid.frontier.layers import layer_row
from isogrid.masks import Target, find_targets
from isogrid.report.data import ActivationRow, InputUse, LayerRow
from isogrid.tasks import Task


def layer_rows(task: Task, dense: nn.Module, sparse: nn.Module) -> list[LayerRow]:
    """Each target's zeros, dead units and weights before and after."""
    before = find_targets(dense, task.targets, task.ignore)
    after = find_targets(sparse, task.targets, task.ignore)
    return [
        layer_row(now.name, tuple(now.parameter.shape), _canonical(was), _canonical(now))
        for was, now in zip(before, after, strict=True)
    ]


def _canonical(target: Target) -> NDArray[Any]:
    return to_numpy(target.canonical(target.parameter.detach()), target.name)


def input_use(task: Task, sparse: nn.Module) -> InputUse | None:
    """Surviving connections of each input feature, where the model begins with a linear layer on its inputs."""
    first = next((m for m in sparse.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)), None)
    if not isinstance(first, nn.Linear):
        return None
    features = int(np.prod(task.example()[0].shape[1:]))
    if first.in_features != features:
        return None
    counts = [int(count) for count in first.weight.detach().ne(0).sum(dim=0)]
    shape = task.image_shape()
    return InputUse(counts=counts, shape=shape if shape is not None and math.prod(shape) == features else None)


def activation_rows(task: Task, dense: nn.Module, sparse: nn.Module) -> list[ActivationRow]:
    """The share of exact zeros in what each activation layer puts out, on the example inputs."""
    batches = [task.example()]
    try:
        before = {row.name: row.sparsity for row in measure(dense, batches, labels=False).activations}
        after = {row.name: row.sparsity for row in measure(sparse, batches, labels=False).activations}
    except IsogridError:
        return []
    return [
        ActivationRow(layer=name, dense_sparsity=before[name], sparse_sparsity=after[name])
        for name in before
        if name in after
    ]
