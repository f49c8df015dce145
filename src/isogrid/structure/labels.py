"""Labels: for every axis of every tensor, which unit of the model each index belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

Site = tuple[str, int]
"""A parameter or buffer by name, and one of its axes."""


class Units:
    """A partition of labels into units: what is removed, is removed as a whole unit.

    Labels are integers that `fresh` hands out, one for every index of every axis of every parameter.  `join` says that
    two must go together, `freeze` that a unit must stay.
    """

    def __init__(self) -> None:
        self._parent = np.empty(0, dtype=np.int64)
        self._frozen = np.empty(0, dtype=np.bool_)
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parent)

    def fresh(self, count: int) -> Tensor:
        """Labels that nobody has, int64 [count]."""
        start = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(start, start + count)])
        self._frozen = np.concatenate([self._frozen, np.zeros(count, dtype=np.bool_)])
        return torch.arange(start, start + count)

    def find(self, labels: Tensor) -> Tensor:
        """The units of labels, each named by its lowest label."""
        return torch.as_tensor(self._parent[labels.numpy()])

    def join(self, a: Tensor, b: Tensor) -> None:
        """Make one unit of each pair of labels; the shapes broadcast."""
        left, right = torch.broadcast_tensors(self.find(a), self.find(b))
        differ = left != right
        pairs = torch.stack([left[differ], right[differ]], dim=1).unique(dim=0).tolist()
        for one, other in pairs:
            low, high = sorted((self._root(one), self._root(other)))
            self._parent[high] = low
            if self._frozen[high]:
                self._frozen[low] = True
                self._reasons.setdefault(low, self._reasons[high])
        if pairs:
            self._flatten()

    def join_along(self, labels: Tensor, axes: Iterable[int]) -> None:
        """Make one unit of all labels that differ in their place along `axes` only."""
        for axis in axes:
            self.join(labels, labels.narrow(axis, 0, 1))

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Units that must stay; the first reason is kept."""
        for unit in self.find(labels).unique().tolist():
            self._frozen[unit] = True
            self._reasons.setdefault(unit, reason)

    def frozen(self, labels: Tensor) -> Tensor:
        """Whether each label's unit must stay, boolean."""
        return torch.as_tensor(self._frozen[self.find(labels).numpy()])

    def reason(self, unit: int) -> str:
        """Why a frozen unit must stay."""
        return self._reasons[unit]

    def _root(self, label: int) -> int:
        while (parent := int(self._parent[label])) != label:
            label = parent
        return label

    def _flatten(self) -> None:
        """Let every label point to its unit directly, so that `find` is one look-up."""
        while not np.array_equal(self._parent, above := self._parent[self._parent]):
            self._parent = above


@dataclass(frozen=True, eq=False)
class Plane:
    """The labels of a tensor's elements in one respect; an element is there as long as its units are, of all planes.

    Attributes:
        ids: int64, with the tensor's number of axes; of size 1 along those where the labels do not vary.
        site: the axis of the parameter that the labels come from, where only views lie between.
    """

    ids: Tensor
    site: Site | None = None

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which labels vary."""
        return tuple(axis for axis, size in enumerate(self.ids.shape) if size > 1)


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known of a tensor.

    Attributes:
        shape: of the tensor.
        planes: their axes do not overlap.
        zero: boolean, broadcasts to `shape`: where the tensor is zero whatever the model's input is.  None: nowhere.
    """

    shape: tuple[int, ...]
    planes: tuple[Plane, ...] = ()
    zero: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor], shape: Sequence[int], *, keep_site: bool = False) -> Labels:
        """The labels of ``change(tensor)``, of `shape`, where `change` only moves elements."""
        planes = [
            Plane(compact(change(plane.ids.expand(self.shape))), plane.site if keep_site else None)
            for plane in self.planes
        ]
        zero = None if self.zero is None else some(compact(change(self.zero.expand(self.shape))))
        return Labels(tuple(shape), tuple(plane for plane in planes if plane.axes), zero)

    def along(self, axes: Iterable[int]) -> list[Plane]:
        """The planes that vary along any of `axes`."""
        wanted = set(axes)
        return [plane for plane in self.planes if wanted & set(plane.axes)]

    def without_zero(self) -> Labels:
        """The same, with nothing known of zeros."""
        return replace(self, zero=None)


def compact(tensor: Tensor) -> Tensor:
    """The tensor cut to size 1 along every axis along which it does not vary.

    >>> compact(torch.tensor([[1, 2], [1, 2]])).tolist()
    [[1, 2]]
    """
    for axis, size in enumerate(tensor.shape):
        if size > 1:
            first = tensor.narrow(axis, 0, 1)
            if tensor.stride(axis) == 0 or bool((tensor == first).all()):
                tensor = first
    return tensor


def all_along(zero: Tensor | None, axes: Iterable[int]) -> Tensor | None:
    """Where something is zero at every place along `axes`, which stay with size 1."""
    listed = [axis for axis in axes if zero is not None and zero.shape[axis] > 1]
    return zero if zero is None or not listed else some(zero.all(dim=listed, keepdim=True))


def zero_in_one(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Where a product is zero."""
    return a if b is None else b if a is None else a | b


def zero_in_all(zeros: Sequence[Tensor | None]) -> Tensor | None:
    """Where a sum is zero."""
    result: Tensor | None = None
    for zero in zeros:
        if zero is None:
            return None
        result = zero if result is None else result & zero
    return None if result is None else some(result)


def some(zero: Tensor) -> Tensor | None:
    """A table of zeros, or None where it says nothing."""
    return zero if bool(zero.any()) else None
