"""The sparse trigger in Keras: weights whose gradients stay small become zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from isogrid.integrations.keras.methods.base import Aimed
from isogrid.integrations.keras.state import SparseLayer, SparseState
from isogrid.rules.method import Gradients
from isogrid.rules.trigger import Judged, TriggerRule, not_finite
from isogrid.updates import closing_step


@dataclass(frozen=True)
class Trigger(TriggerRule, Aimed):
    """Sparse trigger (稀疏触发): a weight whose gradient has stayed small is set to zero.

    As `isogrid.Trigger`: each weight keeps a moving average ``m <- beta m + (1 - beta) |g|`` inside the optimiser's
    step.  At each check a weight with ``m`` below the threshold counts one more, any other starts again at nought; who
    has counted to `patience` is zeroed, smallest average first, as long as the sparsity stays at or below `sparsity`.

    Attributes:
        sparsity: the cap of what the masks hold at zero, and when paced also the goal.
        threshold: absolute bound on the moving average, in units of the gradient.
        quantile: bound as a quantile of the active weights' averages, between 0 and 1.  With neither bound the trigger
            is paced by `schedule`.
        patience: consecutive checks for which the average must stay below the bound.
        beta: decay of the moving average, a step.
        revive: a pruned weight becomes active again (at zero) when its average exceeds that many times the mean
            average of its layer's active weights; None never revives.  Revival ends with the ramp.
        schedule: the pace, in fractions of the training; also the end of zeroing and revival.
        delta_t: steps between two checks; a hundredth of the training by default.

    Raises:
        UsageError: both `threshold` and `quantile` are given, or a number is out of range.

    >>> Trigger(sparsity=0.9, quantile=0.05, patience=3).mode
    'quantile'
    """

    @property
    def gradients(self) -> Gradients:
        return "active" if self.revive is None else "dense"

    def memories(self) -> Mapping[str, str]:
        return {"average": "weight", "seen": "scalar"}

    def remember(self, memory: Mapping[str, Any], gradient: Any, step: Any, total_steps: int) -> Mapping[str, Any]:
        """The average starts at the first gradient: a layer that has had none is not judged."""
        size, average = ops.abs(gradient), memory["average"]
        return {"average": ops.where(memory["seen"] > 0, average + (1 - self.beta) * (size - average), size)}

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        self.check_partitions(state)
        for layer in state.layers:
            layer.buffers["patience"] = np.zeros(layer.shape, dtype=np.int32)

    def arrived(self, state: SparseState) -> bool:
        return state.step >= closing_step(state.total_steps, self.schedule)

    def update(self, state: SparseState) -> None:
        layers = {layer.name: self._judged(state, layer) for layer in state.layers}
        masks = self.judge(layers, state.progress, self.goal(state))
        for layer in state.layers:
            layer.buffers["patience"] = layers[layer.name].patience
        if masks is not None:
            state.write_masks(masks)

    def _judged(self, state: SparseState, layer: SparseLayer) -> Judged:
        average = layer.remembered("average") if layer.seen else None
        if average is not None and not np.isfinite(average).all():
            raise not_finite(layer.name, f"was not finite up to step {state.step}")
        return Judged(layer.mask, average, layer.buffers["patience"])
