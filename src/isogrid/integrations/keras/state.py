"""What a method sees and changes while it makes a Keras model sparse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras.src.saving.keras_saveable import KerasSaveable
from numpy.typing import NDArray

from isogrid.errors import SparsifierError
from isogrid.integrations.keras.targets import Target
from isogrid.rules.state import Masks, Number, State, check_masks


class SparseLayer:
    """One target with its mask (True = active) and what the method remembers about each weight.

    Arrays are in canonical view (axis 0 = output, axis 1 = input, then kernel axes).

    Attributes:
        target: the variable.
        key: what its random numbers go by: the name that it had when the training began.
        mask: read it, and change it through `SparseState.write_masks`.
        buffers: arrays that only change where the masks are updated.
        held: the variable of the mask, where the optimiser has one; of the target's own shape.
        memory: variables that the optimiser writes at each step, by name; of the target's own shape, or scalars.
        slots: what the optimiser remembers about each weight (momentum, say).
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.key = target.name
        self.mask: NDArray[np.bool_] = np.ones(target.shape, dtype=np.bool_)
        self.buffers: dict[str, NDArray[Any]] = {}
        self.held: Any = None
        self.memory: dict[str, Any] = {}
        self.slots: list[Any] = []

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def weight(self) -> NDArray[Any]:
        """A copy of the weight."""
        return self.target.read(self.target.variable)

    @property
    def size(self) -> int:
        return self.mask.size

    @property
    def active(self) -> int:
        return int(np.count_nonzero(self.mask))

    @property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape."""
        return self.target.shape

    @property
    def nonzeros(self) -> int:
        """How many weights are not zero."""
        return int(np.count_nonzero(self.weight))

    @property
    def trained(self) -> bool:
        """Whether the training moves the weight; else it is frozen."""
        return bool(self.target.variable.trainable)

    @property
    def finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return bool(np.isfinite(self.weight).all())

    @property
    def seen(self) -> bool:
        """Whether the optimiser has had a gradient for it since the memory was last cleared."""
        return "seen" in self.memory and int(keras.ops.convert_to_numpy(self.memory["seen"])) > 0

    def remembered(self, name: str) -> NDArray[Any]:
        """A copy of one of the memories."""
        return self.target.read(self.memory[name])

    def forget(self) -> None:
        """Start the memory anew with the gradient that comes next."""
        self.memory["seen"].assign(0)

    def read_mask(self) -> NDArray[np.bool_]:
        """The mask; not to be written into."""
        return self.mask

    def read_weight(self) -> NDArray[Any]:
        """A copy of the weight."""
        return self.weight

    def write_weight(self, where: NDArray[np.bool_], values: NDArray[Any]) -> None:
        """Give the weights at those places those values."""
        self.target.write(self.target.variable, np.where(where, values, self.weight))

    def hold_zeros(self) -> None:
        """Put zeros where weights are pruned: into the weight, and into what the optimiser knows of it."""
        if self.held is not None:
            self.target.write(self.held, self.mask)
        if self.mask.all():
            return
        for variable in (self.target.variable, *self.slots):
            array = np.asarray(keras.ops.convert_to_numpy(variable))
            mask = self.target.view.restore(self.mask, array.shape)
            variable.assign(np.where(mask, array, np.zeros((), dtype=array.dtype)))


class SparseState(State, KerasSaveable):
    """The layers, the clock and the method's own numbers.

    It hangs on the optimiser while a training runs, so that Keras writes it into every file that it saves the model to
    and reads it back by ``load_weights``; files read elsewhere are not changed by it.
    """

    def __init__(self, targets: Iterable[Target], method: Any, total_steps: int, seed: int) -> None:
        self.layers: list[SparseLayer] = [SparseLayer(target) for target in targets]
        self.method = method
        self.total_steps = total_steps
        self.seed = seed
        self.origin = 0
        """The optimiser's own count of steps when this training began."""
        self.step = 0
        """Optimiser steps that were really taken (a step skipped by loss scaling is none)."""
        self.numbers: dict[str, Number] = {}
        self.scalars: dict[str, Any] = {}
        """Numbers that the optimiser's step reads or writes, as variables."""
        self.restored = False
        """Whether the state came from a file, so that the training goes on instead of beginning."""

    @property
    def finished(self) -> bool:
        """Whether the sparsity is the final one."""
        return bool(self.method.arrived(self))

    def scalar(self, name: str) -> float:
        """A number that the optimiser's step shares."""
        return float(keras.ops.convert_to_numpy(self.scalars[name]))

    def set_scalar(self, name: str, value: float) -> None:
        """Give the optimiser's step a number."""
        self.scalars[name].assign(value)

    def write_masks(self, masks: Masks) -> None:
        """Take over new masks; newly pruned weights become zero at once, and what the optimiser knows of them."""
        for layer in self.layers:
            if layer.name in masks:
                layer.mask = np.array(masks[layer.name], dtype=np.bool_)
                layer.hold_zeros()

    def fit_masks(self, masks: Masks) -> dict[str, NDArray[np.bool_]]:
        """`masks`, given in the shapes of the variables, in canonical view.

        Raises:
            TargetError: they do not name every target and nothing else, or one is not a boolean array of its shape.
        """
        given = {name: np.asarray(mask) for name, mask in masks.items()}
        check_masks(given, {layer.name: tuple(layer.target.variable.shape) for layer in self.layers}, np.dtype(bool))
        return {layer.name: layer.target.view.canonical(given[layer.name]) for layer in self.layers}

    def adopt_zeros(self) -> None:
        """Take the zeros that the model holds as masks.  A layer of nothing but zeros stays all active."""
        found = {layer.name: layer.weight != 0 for layer in self.layers}
        self.write_masks({name: mask if mask.any() else np.ones_like(mask) for name, mask in found.items()})

    # -- saving and resuming -----------------------------------------------------------------------------------------

    def _obj_type(self) -> str:
        """Keras asks what attributes a saved object of this kind has of itself; those of a metric do no harm here."""
        return "Metric"

    def save_own_variables(self, store: Any) -> None:
        """Write everything that a resumption needs beside the model's and the optimiser's own states."""
        head = {
            "method": repr(self.method), "total_steps": self.total_steps, "seed": self.seed, "origin": self.origin,
            "step": self.step, "numbers": self.numbers, "names": [layer.key for layer in self.layers],
            "shapes": [layer.shape for layer in self.layers],
        }  # fmt: skip
        store["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
        for index, layer in enumerate(self.layers):
            store[f"mask_{index}"] = np.packbits(layer.mask)
            for name, array in layer.buffers.items():
                store[f"buffer_{index}_{name}"] = array
            for name, variable in layer.memory.items():
                store[f"memory_{index}_{name}"] = np.asarray(keras.ops.convert_to_numpy(variable))
        for name, variable in self.scalars.items():
            store[f"scalar_{name}"] = np.asarray(keras.ops.convert_to_numpy(variable))

    def load_own_variables(self, store: Any) -> None:
        """Go on from what was saved; a file that holds no such state leaves this one as it is.

        Raises:
            SparsifierError: the state is of another training.
        """
        keys = list(store.keys())
        if "head" not in keys:
            return
        head = json.loads(np.asarray(store["head"]).tobytes())
        mine = {
            "method": repr(self.method), "total_steps": self.total_steps, "seed": self.seed,
            "names": [layer.name for layer in self.layers], "shapes": [list(layer.shape) for layer in self.layers],
        }  # fmt: skip
        for name, value in mine.items():
            saved = head.get(name, value)
            if _unnumbered(saved) != _unnumbered(value):
                raise SparsifierError(
                    f"The saved training is another one: its {name} is {saved!r}, and here it is {value!r}."
                )
        self.origin, self.step, self.numbers = head["origin"], head["step"], head["numbers"]
        for index, layer in enumerate(self.layers):
            layer.key = head["names"][index]
            bits = np.unpackbits(np.asarray(store[f"mask_{index}"]), count=layer.size)
            layer.mask = bits.astype(np.bool_).reshape(layer.mask.shape)
            layer.hold_zeros()
            prefix = f"buffer_{index}_"
            names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
            layer.buffers = {name: np.asarray(store[f"{prefix}{name}"]) for name in names}
            for name, variable in layer.memory.items():
                variable.assign(np.asarray(store[f"memory_{index}_{name}"]))
        for name, variable in self.scalars.items():
            variable.assign(np.asarray(store[f"scalar_{name}"]))
        self.restored = True


def _unnumbered(value: Any) -> Any:
    """Names of weights without the numbers that Keras gives anew to unnamed layers; anything else as it is.

    >>> _unnumbered(["dense_12/kernel", "block_2/dense/kernel"])
    ['dense/kernel', 'block/dense/kernel']
    """
    if not isinstance(value, list):
        return value
    return [re.sub(r"_\d+(?=/)", "", name) if isinstance(name, str) else name for name in value]
