"""Dynamic sparse training in Keras: the number of active weights stays, and which they are moves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from keras import ops
from numpy.typing import NDArray

from isogrid.checks import check_fraction
from isogrid.errors import TrainingError, UsageError
from isogrid.integrations.keras.methods.base import Aimed, Gradients, Usage, score_layer
from isogrid.integrations.keras.state import SparseLayer, SparseState
from isogrid.patterns import active_count
from isogrid.regrow import drop_and_grow
from isogrid.schedules import Cosine, OneShot, Schedule
from isogrid.scores import Magnitude, Random
from isogrid.updates import check_interval, update_interval


@dataclass(frozen=True)
class DropAndGrow(Aimed):
    """The base of methods that drop weights of smallest magnitude and grow as many others, every few steps.

    As `isogrid.sparsify.dynamic.DropAndGrow`: training starts from random masks with the Erdos-Renyi-kernel shares, or
    from adopted ones that fit; after every `delta_t` steps before the schedule's end each layer exchanges the share
    ``drop_fraction * (1 - ramp(t / T))`` of its active weights, rounded down.

    Attributes:
        drop_fraction: share of a layer's active weights that is exchanged at an update, at first, in [0, 1].
        schedule: the way of that share to zero, in fractions of the training; at its end the masks are final.
        delta_t: steps between two updates; a hundredth of the training by default.
    """

    drop_fraction: float = 0.3
    schedule: Schedule = field(default_factory=lambda: OneShot(at=1.0))
    delta_t: int | None = None

    default_allocation: ClassVar[str] = "erk"
    usage: ClassVar[Usage] = Usage.RESTART

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(type(self).__name__, "drop_fraction", self.drop_fraction)
        check_interval(type(self).__name__, self.delta_t)

    @abstractmethod
    def promise(self, state: SparseState, layer: SparseLayer) -> NDArray[Any] | None:
        """How much each weight of a layer promises; the highest of the inactive ones are grown.

        None leaves the layer as it is.
        """

    def start(self, state: SparseState, layer: SparseLayer, grown: NDArray[np.bool_]) -> None:
        """Give the weights at `grown` their first values; they are zero, and so is what the optimiser knows of them."""

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        if self._adopted(state):
            return
        sparsity = max(self.target_sparsity, state.mask_sparsity)
        # Active weights come first, and all places are open: shares may want more of a layer than it holds.
        scores = {layer.name: score_layer(state, layer, Random()) + layer.mask for layer in state.layers}
        state.set_masks({layer.name: np.ones_like(layer.mask) for layer in state.layers})
        self.keep_best(state, scores, sparsity)

    def _adopted(self, state: SparseState) -> bool:
        """Whether the masks are there already."""
        if state.active > active_count(state.size, self.target_sparsity):
            return False
        return all(self.target_pattern.conforms(layer.mask) for layer in state.layers)

    def drop_fraction_at(self, progress: float) -> float:
        """The share of active weights that an update at that fraction of the training exchanges.

        >>> [round(RigL(sparsity=0.9).drop_fraction_at(t), 3) for t in (0.0, 0.25, 0.5, 0.75)]
        [0.3, 0.225, 0.075, 0.0]
        """
        return self.schedule.value(progress, self.drop_fraction, 0.0)

    def due(self, state: SparseState, step: int) -> bool:
        interval = update_interval(self.delta_t, state.total_steps)
        # Weights that grew at the very last step would never be trained.
        return step % interval == 0 and step < self.schedule.end * state.total_steps

    def update(self, state: SparseState) -> None:
        state.check_finite()
        fraction = self.drop_fraction_at(state.progress)
        masks: dict[str, NDArray[np.bool_]] = {}
        new: dict[str, NDArray[np.bool_]] = {}
        for layer in state.layers:
            promise = self.promise(state, layer)
            if promise is None:
                continue
            worth = score_layer(state, layer, Magnitude())
            dropped, grown = drop_and_grow(layer.mask, worth, promise, fraction, self.target_pattern)
            masks[layer.name] = (layer.mask & ~dropped) | grown
            new[layer.name] = grown
        state.set_masks(masks)
        for layer in state.layers:
            if layer.name in new:
                self.start(state, layer, new[layer.name])


@dataclass(frozen=True)
class SET(DropAndGrow):
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

    init: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in ("random", "zero"):
            raise UsageError(f"SET got init={self.init!r}; accepted are 'random' and 'zero'.")

    def begin(self, state: SparseState) -> None:
        for layer in state.layers:
            state.numbers[f"initial_spread/{layer.name}"] = _spread(layer.weight[layer.mask])
        super().begin(state)

    def promise(self, state: SparseState, layer: SparseLayer) -> NDArray[Any]:
        return np.asarray(state.rng("grow", layer).random(layer.target.shape))

    def start(self, state: SparseState, layer: SparseLayer, grown: NDArray[np.bool_]) -> None:
        if self.init == "zero":
            return
        width = float(state.numbers[f"initial_spread/{layer.name}"])
        values = width * state.rng("start", layer).standard_normal(layer.target.shape, dtype=np.float32)
        layer.set_weight(np.where(grown, values, layer.weight))


@dataclass(frozen=True)
class RigL(DropAndGrow):
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

    schedule: Schedule = field(default_factory=lambda: Cosine(end=0.75))
    window: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise UsageError(f"RigL got window={self.window!r}; accepted is a whole number of steps >= 1.")

    @property
    def gradients(self) -> Gradients:
        return "dense"

    def memories(self) -> Mapping[str, str]:
        return {"gradient": "weight", "seen": "scalar"}

    def remember(self, memory: Mapping[str, Any], gradient: Any, step: Any, total_steps: int) -> Mapping[str, Any]:
        """Sum the gradients of the window that ends at the next multiple of the interval.

        Their sum ranks as their mean does.
        """
        interval = update_interval(self.delta_t, total_steps)
        window = min(self.window, interval)
        position = ops.mod(step - 1, interval) - (interval - window)
        total = ops.where(position > 0, memory["gradient"] + gradient, gradient)
        return {"gradient": ops.where(position >= 0, total, memory["gradient"])}

    def promise(self, state: SparseState, layer: SparseLayer) -> NDArray[Any] | None:
        if not layer.seen:
            return None
        gradient = np.abs(layer.remembered("gradient"))
        if not np.isfinite(gradient).all():
            raise TrainingError(
                f"The gradient of {layer.name} is not finite at step {state.step}; only finite gradients say where "
                "to grow, so lower the learning rate or clip them."
            )
        layer.forget()
        return gradient


def _spread(values: NDArray[Any]) -> float:
    """The root mean square of `values`, 0 where there is none."""
    return float(np.sqrt(np.square(values.astype(np.float64)).mean())) if values.size else 0.0
