"""What is true of a sparse training in every framework: its layers, its clock and the method's own numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import PatternError, TargetError, TrainingError
from isogrid.patterns import Pattern
from isogrid.selection import generator

Number = float | int | bool
Masks = Mapping[str, NDArray[np.bool_]]


class Held(Protocol):
    """One target with its mask.  Arrays are in canonical view (axis 0 = output, axis 1 = input, then kernel axes)."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str:
        """What its random numbers, and the numbers that a method keeps of it, go by: as a rule the name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape."""

    @property
    def size(self) -> int: ...

    @property
    def active(self) -> int:
        """How many weights the mask holds active."""

    @property
    def nonzeros(self) -> int:
        """How many weights are not zero."""

    @property
    def finite(self) -> bool:
        """Whether no weight is NaN or infinite."""

    @property
    def trained(self) -> bool:
        """Whether the training moves the weight; else it is frozen."""

    def read_mask(self) -> NDArray[np.bool_]:
        """The mask, True = active; not to be written into."""

    def read_weight(self) -> NDArray[Any]:
        """The weight; not to be written into."""

    def write_weight(self, where: NDArray[np.bool_], values: NDArray[Any]) -> None:
        """Give the weights at those places those values."""


class State:
    """The base of the state that methods see and change while a model is made sparse."""

    layers: Sequence[Held]
    total_steps: int
    seed: int
    step: int
    numbers: dict[str, Number]

    @property
    def progress(self) -> float:
        """The share of ``total_steps`` that is done, 0 to 1."""
        return min(1.0, self.step / self.total_steps)

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)

    @property
    def active(self) -> int:
        return sum(layer.active for layer in self.layers)

    @property
    def mask_sparsity(self) -> float:
        """The share of weights that the masks hold at zero."""
        return 1 - self.active / self.size

    @property
    def sparsity(self) -> float:
        """The share of weights that are exactly zero, pruned or not."""
        return 1 - sum(layer.nonzeros for layer in self.layers) / self.size

    def read_masks(self) -> dict[str, NDArray[np.bool_]]:
        """The masks by name, in canonical view; not to be written into."""
        return {layer.name: layer.read_mask() for layer in self.layers}

    def write_masks(self, masks: Masks) -> None:
        """Take over new masks, by name and in canonical view; newly pruned weights become zero at once."""
        raise NotImplementedError

    def rng(self, purpose: str, layer: Held | None = None) -> np.random.Generator:
        """A generator that depends on nothing but the seed, the step, the purpose and the layer's key."""
        return generator(self.seed, self.step, purpose, layer.key if layer else "")

    def check_finite(self) -> None:
        """Raise ``TrainingError`` if a weight is NaN or infinite: no score could rank it."""
        for layer in self.layers:
            if not layer.finite:
                raise TrainingError(
                    f"The weights of {layer.name} are not finite at step {self.step}; only finite weights can be "
                    "ranked, so lower the learning rate or clip the gradients."
                )

    def check_pattern(self, pattern: Pattern) -> None:
        """Raise ``PatternError`` naming the first layer that the pattern does not fit."""
        for layer in self.layers:
            try:
                pattern.check(layer.shape)
            except PatternError as problem:
                raise PatternError(
                    f"{layer.name} does not fit the pattern; leave it out with ignore=. {problem}"
                ) from None


def check_masks(masks: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], boolean: Any) -> None:
    """Refuse masks that are not those of the targets.

    Args:
        masks: arrays or tensors by name.
        shapes: what each target's mask must have, in the layout of the masks.
        boolean: the dtype that it must have, as the framework calls it.

    Raises:
        TargetError: they do not name every target and nothing else, or one is not a boolean array of its shape.

    >>> check_masks({"w": np.ones((2, 3), bool)}, {"w": (2, 3)}, np.dtype(bool))
    >>> check_masks({"w": np.ones((2, 3))}, {"w": (2, 3)}, np.dtype(bool))
    Traceback (most recent call last):
    isogrid.errors.TargetError: The mask of w is float64 of shape (2, 3); accepted is bool of shape (2, 3).
    """
    if strange := sorted(set(masks) ^ set(shapes)):
        where = "lack" if strange[0] in shapes else "name"
        raise TargetError(
            f"The masks {where} {strange[0]}; they must name exactly the targets, {', '.join(sorted(shapes))}."
        )
    for name, shape in shapes.items():
        mask = masks[name]
        if tuple(mask.shape) != shape or mask.dtype != boolean:
            raise TargetError(
                f"The mask of {name} is {mask.dtype} of shape {tuple(mask.shape)}; accepted is {boolean} of shape "
                f"{shape}."
            )
