"""A state of plain arrays, for rules that know no framework."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.rules.state import Masks, State


class ArrayLayer:
    """A weight and its mask."""

    def __init__(self, name: str, weight: NDArray[Any]) -> None:
        self.name = self.key = name
        self.weight, self.mask = weight, np.ones(weight.shape, np.bool_)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def size(self) -> int:
        return self.weight.size

    @property
    def active(self) -> int:
        return int(np.count_nonzero(self.mask))

    @property
    def nonzeros(self) -> int:
        return int(np.count_nonzero(self.weight))

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.weight).all())

    @property
    def trained(self) -> bool:
        return True

    def read_mask(self) -> NDArray[np.bool_]:
        return self.mask

    def read_weight(self) -> NDArray[Any]:
        return self.weight

    def write_weight(self, where: NDArray[np.bool_], values: NDArray[Any]) -> None:
        self.weight = np.where(where, values, self.weight)


class ArrayState(State):
    """Layers ``a``, ``b``, ... of these weights, at the first of so many steps, with nothing pruned."""

    def __init__(self, *weights: Any, total_steps: int = 100) -> None:
        self.layers: list[ArrayLayer] = [
            ArrayLayer(chr(97 + index), np.asarray(weight, dtype=np.float32)) for index, weight in enumerate(weights)
        ]
        self.total_steps, self.step, self.seed = total_steps, 0, 0
        self.numbers = {"initial_sparsity": 0.0}

    def write_masks(self, masks: Masks) -> None:
        for layer in self.layers:
            layer.mask = masks.get(layer.name, layer.mask)
            layer.weight = np.where(layer.mask, layer.weight, 0)
