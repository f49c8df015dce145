"""Dynamic sparse training: the number of active weights stays, and which they are moves."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isogrid.checks import check_fraction
from isogrid.errors import TrainingError, UsageError
from isogrid.patterns import active_count
from isogrid.regrow import drop_and_grow
from isogrid.schedules import Cosine, OneShot, Schedule
from isogrid.scores import Magnitude, Random
from isogrid.sparsify.method import Gradients, Usage, register_method
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import score_layer
from isogrid.sparsify.state import SparseLayer, SparseState
from isogrid.updates import check_interval, update_interval


@dataclass(frozen=True)
class DropAndGrow(Selecting):
    """The base of methods that drop weights of smallest magnitude and grow as many others, every few steps.

    Training starts from random masks with the Erdos-Renyi-kernel shares.  Adopted masks are kept where they fit the
    pattern and are sparse enough, so that a topology found otherwise can be the start; else random weights are added
    or taken away until every layer has its share, and the whole is never denser than what was adopted.

    After the optimiser's step at every multiple of `delta_t` before the schedule's end, each layer drops the share

        ``drop_fraction * (1 - ramp(t / T))``

    of its active weights, rounded down, and grows as many of those that were inactive before: dropped weights never
    come straight back, and a layer of which less is inactive exchanges that much.  So each layer, and each part of it
    in which the pattern counts (a row of ``fan_in``, a run of N:M), has the same number of active weights at every
    step.  With a pattern of groups (blocks, rows, channels) whole groups are dropped, by the sum of their magnitudes,
    and grown.  With several parts the smallest of the whole layer are dropped and each part grows what it lost, as
    constant fan-in does in Lasby et al. 2024, arXiv:2305.02299, section 3, without its ablation of neurons.

    Attributes:
        drop_fraction: share of a layer's active weights that is exchanged at an update, at first, in [0, 1].
        schedule: the way of that share to zero, in fractions of the training; at its end the masks are final.
        delta_t: steps between two updates; a hundredth of the training by default.
    """

    drop_fraction: float = 0.3
    schedule: Schedule = field(default_factory=lambda: OneShot(at=1.0))
    delta_t: int | None = None

    usage: ClassVar[Usage] = Usage.RESTART
    default_allocation: ClassVar[str] = "erk"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(type(self).__name__, "drop_fraction", self.drop_fraction)
        check_interval(type(self).__name__, self.delta_t)

    @abstractmethod
    def promise(self, state: SparseState, layer: SparseLayer) -> npt.NDArray[Any] | None:
        """How much each weight of a layer promises, in canonical view; the highest of the inactive ones are grown.

        None leaves the layer as it is.
        """

    def start(self, state: SparseState, layer: SparseLayer, grown: Tensor) -> None:
        """Give the weights at `grown` their first values; they are zero, and so is what the optimiser knows of them."""

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        state.numbers["exchanged"] = 0
        if self._adopted(state):
            return
        sparsity = max(self.target_sparsity, state.mask_sparsity)
        held = {layer.name: layer.to_array(layer.mask) for layer in state.layers}
        # Active weights come first, and all places are open: shares may want more of a layer than it holds.
        scores = {layer.name: score_layer(state, layer, Random()) + held[layer.name] for layer in state.layers}
        state.set_masks({layer.name: torch.ones_like(layer.mask) for layer in state.layers})
        self.keep_best(state, scores, sparsity)

    def _adopted(self, state: SparseState) -> bool:
        """Whether the masks are there already."""
        if state.active > active_count(state.size, self.target_sparsity):
            return False
        return all(self.target_pattern.conforms(layer.to_array(layer.mask)) for layer in state.layers)

    def after_step(self, state: SparseState) -> None:
        if self._due(state, state.step):
            self._exchange(state)

    def telemetry(self, state: SparseState) -> dict[str, float]:
        exchanged = float(state.numbers["exchanged"])
        return {
            **super().telemetry(state),
            "drop_fraction": self.drop_fraction_at(state.progress),
            "dropped": exchanged,
            "grown": exchanged,
        }

    def drop_fraction_at(self, progress: float) -> float:
        """The share of active weights that an update at that fraction of the training exchanges.

        >>> [round(RigL(sparsity=0.9).drop_fraction_at(t), 3) for t in (0.0, 0.25, 0.5, 0.75)]
        [0.3, 0.225, 0.075, 0.0]
        """
        return self.schedule.value(progress, self.drop_fraction, 0.0)

    def _due(self, state: SparseState, step: int) -> bool:
        """Whether an update follows that step."""
        interval = update_interval(self.delta_t, state.total_steps)
        # Weights that grew at the very last step would never be trained.
        return step % interval == 0 and step < self.schedule.end * state.total_steps

    def _exchange(self, state: SparseState) -> None:
        state.check_finite()
        fraction = self.drop_fraction_at(state.progress)
        masks: dict[str, Tensor] = {}
        new: dict[str, Tensor] = {}
        for layer in state.layers:
            promise = self.promise(state, layer)
            if promise is None:
                continue
            mask = layer.to_array(layer.mask)
            worth = score_layer(state, layer, Magnitude())
            dropped, grown = drop_and_grow(mask, worth, promise, fraction, self.target_pattern)
            masks[layer.name] = layer.from_array((mask & ~dropped) | grown)
            new[layer.name] = layer.from_array(grown)
        state.set_masks(masks)
        for layer in state.layers:
            if layer.name in new:
                self.start(state, layer, new[layer.name])
        state.numbers["exchanged"] = sum(int(torch.count_nonzero(grown)) for grown in new.values())


@register_method("set")
@dataclass(frozen=True)
class SET(DropAndGrow):
    """Sparse evolutionary training: the smallest weights are dropped, and as many are grown at random.

    Source: Mocanu et al. 2018, arXiv:1707.04780 (Nature Communications 9, 2383), algorithm 1, where the share zeta is
    0.3 and an update follows each epoch but the last.  The paper takes the share of the positive weights and of the
    negative ones apart, where here, as in later work, the smallest of all are taken; and the paper's own code may grow
    a weight anew that it has just dropped.

    Attributes:
        init: the first value of a grown weight: ``"random"`` draws it from a normal distribution as wide as the
            layer's initial weights (the paper's code does so), ``"zero"`` leaves it at zero.

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

    def promise(self, state: SparseState, layer: SparseLayer) -> npt.NDArray[Any]:
        return np.asarray(state.rng("grow", layer).random(layer.target.shape))

    def start(self, state: SparseState, layer: SparseLayer, grown: Tensor) -> None:
        if self.init == "zero":
            return
        width = float(state.numbers[f"initial_spread/{layer.name}"])
        values = width * state.rng("start", layer).standard_normal(layer.target.shape, dtype=np.float32)
        layer.weight.copy_(torch.where(grown, layer.from_array(values).to(layer.weight.dtype), layer.weight))


@register_method("rigl")
@dataclass(frozen=True)
class RigL(DropAndGrow):
    """RigL: the smallest weights are dropped, and those with the largest gradients are grown, at zero.

    Source: Evci et al. 2020, arXiv:1911.11134, section 3: the share that an update exchanges falls as
    ``drop_fraction / 2 * (1 + cos(pi t / T_end))`` until ``T_end``, three quarters of the training.  At updates the
    paper leaves the optimiser's step out; here it is taken as always and the masks move after it, by the magnitudes
    behind the step and the gradients before it.  In the paper's code a weight that was just dropped may be grown
    again, and then keeps its value; here it is not a candidate.

    Attributes:
        window: steps up to the update over which the gradients are averaged before they are compared; more than
            `delta_t` averages since the last update.  The paper takes the update's own gradient (1).

    >>> RigL(sparsity=0.9, window=4).schedule
    Cosine(begin=0.0, end=0.75)
    """

    schedule: Schedule = field(default_factory=lambda: Cosine(end=0.75))
    window: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise UsageError(f"RigL got window={self.window!r}; accepted is a whole number of steps >= 1.")

    def gradients(self, state: SparseState) -> Gradients:
        return "none" if self._position(state) is None else "dense"

    def before_step(self, state: SparseState) -> None:
        """Gradients at pruned places are gathered while they are there."""
        position = self._position(state)
        if position is None:
            return
        for layer in state.layers:
            if position == 0:
                layer.buffers.pop("gradient", None)
            if layer.gradient is None:
                continue
            if not bool(torch.isfinite(layer.gradient).all()):
                raise TrainingError(
                    f"The gradient of {layer.name} is not finite at step {state.step}; only finite gradients say where "
                    "to grow, so lower the learning rate or clip them."
                )
            # Their sum ranks as their mean does.
            wide = torch.promote_types(layer.gradient.dtype, torch.float32)
            if "gradient" in layer.buffers:
                layer.buffers["gradient"] += layer.gradient
            else:
                layer.buffers["gradient"] = layer.gradient.to(wide, copy=True)

    def promise(self, state: SparseState, layer: SparseLayer) -> npt.NDArray[Any] | None:
        gradient = layer.buffers.pop("gradient", None)
        return None if gradient is None else layer.to_array(gradient.abs())

    def _position(self, state: SparseState) -> int | None:
        """Where the step that comes next stands in a window, from 0; None outside of one."""
        interval = update_interval(self.delta_t, state.total_steps)
        update = interval * math.ceil((state.step + 1) / interval)
        position = min(self.window, interval) - 1 - (update - state.step - 1)
        return position if position >= 0 and self._due(state, update) else None


def _spread(values: Tensor) -> float:
    """The root mean square of `values`, 0 where there is none."""
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0
