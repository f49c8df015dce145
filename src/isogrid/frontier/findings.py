"""What the report shows of the two models beside their numbers: layers, inputs, activations, classes, changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isogrid.activity import measure
from isogrid.errors import IsogridError
from isogrid.masks import find_targets
from isogrid.metrics import Outcomes
from isogrid.report.data import (
    ActivationRow,
    ChangedExample,
    Changes,
    ClassRow,
    Histogram,
    InputUse,
    LayerRow,
)
from isogrid.tasks import Task

_BARS = 40
_EXAMPLES = 24


def layer_rows(task: Task, dense: nn.Module, sparse: nn.Module) -> list[LayerRow]:
    """Each target's zeros, dead units and weights before and after."""
    before = find_targets(dense, task.targets, task.ignore)
    after = find_targets(sparse, task.targets, task.ignore)
    rows = []
    for was, now in zip(before, after, strict=True):
        weights = now.canonical(now.parameter.detach())
        alive = weights.flatten(1).ne(0).any(dim=1)
        nonzeros = int(torch.count_nonzero(weights))
        edges = _edges(was.parameter.detach(), weights)
        rows.append(
            LayerRow(
                name=now.name, shape=tuple(now.parameter.shape), parameters=weights.numel(), nonzeros=nonzeros,
                sparsity=1 - nonzeros / weights.numel(), dead_units=int((~alive).sum()), units=len(alive),
                dense_histogram=_histogram(was.parameter.detach(), edges), sparse_histogram=_histogram(weights, edges),
            )
        )  # fmt: skip
    return rows


def _edges(*tensors: Tensor) -> list[float]:
    most = max((float(tensor.abs().max()) for tensor in tensors if tensor.numel()), default=0.0) or 1.0
    return [float(edge) for edge in np.linspace(-most, most, _BARS + 1)]


def _histogram(weights: Tensor, edges: Sequence[float]) -> Histogram:
    values = weights[weights != 0].double().cpu().numpy()
    counts, _ = np.histogram(values, bins=np.asarray(edges))
    return Histogram(edges=edges, counts=[int(count) for count in counts])


def input_use(task: Task, sparse: nn.Module) -> InputUse | None:
    """Surviving connections of each input feature, where the model begins with a linear layer on its inputs."""
    first = next((m for m in sparse.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)), None)
    if not isinstance(first, nn.Linear):
        return None
    features = int(np.prod(task.example()[0].shape[1:]))
    if first.in_features != features:
        return None
    counts = [int(count) for count in first.weight.detach().ne(0).sum(dim=0)]
    return InputUse(counts=counts, shape=task.image_shape())


def activation_rows(task: Task, dense: nn.Module, sparse: nn.Module) -> list[ActivationRow]:
    """The share of exact zeros in what each activation layer puts out, on the example inputs."""
    batches = [task.example()]
    try:
        before = {row.name: row.sparsity for row in measure(dense, batches).activations}
        after = {row.name: row.sparsity for row in measure(sparse, batches).activations}
    except IsogridError:
        return []
    return [
        ActivationRow(layer=name, dense_sparsity=before[name], sparse_sparsity=after[name])
        for name in before
        if name in after
    ]


def class_rows(task: Task, dense: Outcomes, sparse: Outcomes) -> list[ClassRow]:
    """The metric on the samples of each class."""
    if sparse.labels is None:
        return []
    rows = []
    for label in np.unique(sparse.labels):
        of_class = sparse.labels == label
        rows.append(
            ClassRow(
                name=_class_name(task, int(label)), samples=int(of_class.sum()),
                dense=float(dense.scores[of_class].mean()), sparse=float(sparse.scores[of_class].mean()),
            )
        )  # fmt: skip
    return rows


def changes(task: Task, dense: Outcomes, sparse: Outcomes) -> Changes | None:
    """Which answers on the test split changed, with examples."""
    if dense.predictions is None or sparse.predictions is None or sparse.labels is None:
        return None
    was, now = dense.predictions == dense.labels, sparse.predictions == sparse.labels
    differing = np.flatnonzero(dense.predictions != sparse.predictions)[:_EXAMPLES]
    examples = [
        ChangedExample(
            index=int(index), label=_class_name(task, int(sparse.labels[index])),
            dense=_class_name(task, int(dense.predictions[index])),
            sparse=_class_name(task, int(sparse.predictions[index])), image=_image(task, int(index)),
        )
        for index in differing
    ]  # fmt: skip
    return Changes(
        both_right=int((was & now).sum()), both_wrong=int((~was & ~now).sum()), fixed=int((~was & now).sum()),
        broken=int((was & ~now).sum()), examples=examples,
    )  # fmt: skip


def _class_name(task: Task, index: int) -> str:
    names = task.class_names()
    return names[index] if names is not None and 0 <= index < len(names) else str(index)


def _image(task: Task, index: int) -> list[list[float]] | None:
    picture: Any = task.image("test", index)
    if picture is None:
        return None
    array = np.asarray(picture, dtype=np.float64)
    span = float(array.max() - array.min()) or 1.0
    return [[round(float(v), 3) for v in row] for row in (array - array.min()) / span]
