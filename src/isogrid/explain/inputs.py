"""Which inputs carry a model: pixels and frequencies, or the words and items of its embeddings."""

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
from isogrid.tasks import Task

_SHOWN = 20


@dataclass(frozen=True)
class InputRow:
    """The importance of one group of inputs.

    Attributes:
        name: ``"input"`` for numbers that go in, else the embedding whose rows these are.
        shape: of the inputs, without axes whose size differs between batches (time, say).
        used: how many change the loss at all.
        half: how many of the strongest carry half of the importance.
        strongest: the strongest inputs and their share of the importance.
        like_dense: rank correlation with the dense model; None where it is not defined.
        importance: of every input of the sparse model, shares that add up to 1.
    """

    name: str
    shape: tuple[int, ...]
    used: int
    half: int
    strongest: tuple[tuple[str, float], ...]
    like_dense: float | None
    importance: tuple[float, ...]


class _Numbers(nn.Module):
    """Stands before the model, so that the numbers that go in are an output that can be watched."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


def input_importance(task: Task, model: nn.Module, batches: Iterable[Any]) -> dict[str, NDArray[np.float64]]:
    """The mean of ``|value times gradient of the loss|`` of each input, by group.

    Groups are the floating-point inputs ``batch[0]`` and the rows of each embedding that looks something up.

    >>> from isogrid.tasks import load_task
    >>> task = load_task("digits")
    >>> input_importance(task, task.model(), task.samples("validation"))["input"].shape
    (64,)
    """
    totals: dict[str, Any] = {}
    watched: dict[nn.Module, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            watched[module] = _rows_of(name, module, totals)
    parts: list[NDArray[np.float64]] = []
    numbers = _Numbers()
    watched[numbers] = lambda _, product: parts.append(product.abs().sum(dim=0).cpu().numpy())

    def through(given: Iterable[Any]) -> Iterable[Any]:
        for batch in given:
            first = batch[0] if isinstance(batch, tuple | list) else None
            if isinstance(first, Tensor) and first.is_floating_point():
                yield numbers(first.detach().clone().requires_grad_(True)), *batch[1:]
            else:
                yield batch

    contributions(task, model, through(batches), watched)
    if parts:
        totals["input"] = _over_varying_axes(parts)
    return {name: np.asarray(total) for name, total in totals.items()}


def _rows_of(name: str, module: nn.Embedding, totals: dict[str, Any]) -> Any:
    def seen(given: Any, product: Tensor) -> None:
        each = product.sum(dim=-1).abs().flatten()
        total = totals.setdefault(name, np.zeros(module.num_embeddings))
        total += torch.bincount(given[0].flatten(), weights=each, minlength=module.num_embeddings).numpy()

    return seen


def _over_varying_axes(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The sum over batches; axes whose size differs between them are summed up first."""
    shapes = np.array([part.shape for part in parts])
    varying = tuple(int(axis) for axis in np.flatnonzero((shapes != shapes[0]).any(axis=0)))
    summed: NDArray[np.float64] = np.sum([part.sum(axis=varying) for part in parts], axis=0)
    return summed


def input_rows(
    task: Task, dense: dict[str, NDArray[np.float64]], sparse: dict[str, NDArray[np.float64]]
) -> list[InputRow]:
    """A row a group, of what `input_importance` gave for both models."""
    rows = []
    for name, importance in sparse.items():
        flat = importance.ravel()
        whole = float(flat.sum())
        shares = flat / whole if whole > 0 else flat
        order = np.argsort(-shares, kind="stable")
        carried = np.cumsum(shares[order])
        names = task.input_names(name)
        strongest = tuple(
            (_name(int(index), importance.shape, names), float(shares[index]))
            for index in order[:_SHOWN]
            if shares[index] > 0
        )
        half = int(np.searchsorted(carried, 0.5) + 1) if whole > 0 else 0
        alike = rank_correlation(dense[name], importance) if dense[name].shape == importance.shape else None
        used = int((flat > 0).sum())
        rows.append(InputRow(name, importance.shape, used, half, strongest, alike, tuple(map(float, shares))))
    return rows


def _name(index: int, shape: tuple[int, ...], names: Any) -> str:
    if names is not None and index < len(names):
        return str(names[index])
    return str(index) if len(shape) == 1 else " ".join(map(str, map(int, np.unravel_index(index, shape))))
