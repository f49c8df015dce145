"""Dynamic sparse training in Keras: the number of active weights stays, and which they are moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from isogrid.integrations.keras.methods.base import Aimed
from isogrid.integrations.keras.state import SparseLayer, SparseState
from isogrid.rules.dynamic import Exchange, RigLRule, SETRule, not_finite
from isogrid.rules.method import Gradients


@dataclass(frozen=True)
class DropAndGrow(Exchange, Aimed):
    """The base of methods that drop weights of smallest magnitude and grow as many others, every few steps.

    As `isogrid.sparsify.dynamic.DropAndGrow`: training starts from random masks with the Erdos-Renyi-kernel shares, or
    from adopted ones that fit; after every `delta_t` steps before the schedule's end each layer exchanges the share
    ``drop_fraction * (1 - ramp(t / T))`` of its active weights, rounded down.

    `isogrid.rules.dynamic.Exchange` has the options.
    """

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        self.plant(state)

    def update(self, state: SparseState) -> None:
        self.exchange(state)


@dataclass(frozen=True)
class SET(SETRule, DropAndGrow):
    """Sparse evolutionary training: the smallest weights are dropped, and as many are grown at random.

    As `isogrid.SET`.  Source: Mocanu et al. 2018, arXiv:1707.04780 (Nature Communications 9, 2383), algorithm 1.

    Attributes:
        init: the first value of a grown weight: ``"random"`` draws it from a normal distribution as wide as the
            layer's initial weights, ``"zero"`` leaves it at zero.

    Raises:
        UsageError: an option out of range.

    >>> SET(sparsity=0.9).allocation, SET(sparsity=0.9, pattern="fan_in").drop_fraction
    (ERK(), 0.3)
    """


@dataclass(frozen=True)
class RigL(RigLRule, DropAndGrow):
    """RigL: the smallest weights are dropped, and those with the largest gradients are grown, at zero.

    As `isogrid.RigL`.  Source: Evci et al. 2020, arXiv:1911.11134, section 3: the share that an update exchanges falls
    as ``drop_fraction / 2 * (1 + cos(pi t / T_end))`` until ``T_end``, three quarters of the training.  With
    ``steps_per_execution`` the masks may move some steps behind those whose gradients they are chosen by.

    Attributes:
        window: steps up to the update over which the gradients are averaged before they are compared; more than
            `delta_t` averages since the last update.  The paper takes the update's own gradient (1).

    Raises:
        UsageError: an option out of range.

    >>> RigL(sparsity=0.9, window=4).schedule
    Cosine(begin=0.0, end=0.75)
    """

    @property
    def gradients(self) -> Gradients:
        return "dense"

    def memories(self) -> Mapping[str, str]:
        return {"gradient": "weight", "seen": "scalar"}

    def remember(self, memory: Mapping[str, Any], gradient: Any, step: Any, total_steps: int) -> Mapping[str, Any]:
        """Sum the gradients of the window that ends at the next multiple of the interval.

        Their sum ranks as their mean does.
        """
        interval = self.interval(total_steps)
        window = min(self.window, interval)
        position = ops.mod(step - 1, interval) - (interval - window)
        total = ops.where(position > 0, memory["gradient"] + gradient, gradient)
        return {"gradient": ops.where(position >= 0, total, memory["gradient"])}

    def promise(self, state: SparseState, layer: SparseLayer) -> NDArray[Any] | None:
        if not layer.seen:
            return None
        gradient = np.abs(layer.remembered("gradient"))
        if not np.isfinite(gradient).all():
            raise not_finite(layer.name, state.step)
        layer.forget()
        return gradient
