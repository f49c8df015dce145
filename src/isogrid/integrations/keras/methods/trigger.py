"""The sparse trigger in Keras: weights whose gradients stay small become zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from isogrid.errors import PatternError, TrainingError
from isogrid.integrations.keras.methods.base import Aimed, Gradients
from isogrid.integrations.keras.state import Masks, SparseLayer, SparseState
from isogrid.patterns import active_count
from isogrid.selection import select
from isogrid.trigger_options import TriggerOptions
from isogrid.updates import closing_step, update_due


@dataclass(frozen=True)
class Trigger(TriggerOptions, Aimed):
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
        for layer in state.layers:
            layer.buffers["patience"] = np.zeros(layer.mask.shape, dtype=np.int32)
            if self.target_pattern.grid(layer.target.shape).partitions > 1:
                raise PatternError(
                    f"Trigger cannot hold pattern {self.target_pattern}, which wants equally many zeros in every part "
                    "of a layer, while weights settle where they do; accepted are unstructured, block, row and channel."
                )

    def due(self, state: SparseState, step: int) -> bool:
        return update_due(step, state.total_steps, self.delta_t, self.schedule)

    def arrived(self, state: SparseState) -> bool:
        return state.step >= closing_step(state.total_steps, self.schedule)

    def update(self, state: SparseState) -> None:
        averages = {layer.name: layer.remembered("average") for layer in state.layers if layer.seen}
        for name, average in averages.items():
            if not np.isfinite(average).all():
                raise TrainingError(
                    f"The gradient of {name} was not finite up to step {state.step}; the trigger can only judge "
                    "finite gradients, so lower the learning rate or clip them."
                )
        if self.revive is not None:
            self._revive(state, averages, self.revive)
        initial, goal = self.goal(state)
        allowed = self.schedule.value(state.progress, initial, goal) if self.mode == "paced" else goal
        settled = self._settled(state, averages, allowed)
        if self.mode == "paced" and state.progress >= self.schedule.end:
            settled = {layer.name: layer.mask for layer in state.layers}
        self._zero(state, averages, settled, allowed)

    def _settled(self, state: SparseState, averages: Mapping[str, NDArray[Any]], allowed: float) -> Masks:
        """Where the average has stayed below the bound for long enough."""
        bound = self._bound(state, averages, allowed)
        settled = {}
        for layer in state.layers:
            if layer.name not in averages:
                settled[layer.name] = np.zeros_like(layer.mask)
                continue
            small = (averages[layer.name] <= bound) & layer.mask
            patience = layer.buffers["patience"] = (layer.buffers["patience"] + 1) * small
            settled[layer.name] = self._whole_groups(layer, patience >= self.patience)
        return settled

    def _bound(self, state: SparseState, averages: Mapping[str, NDArray[Any]], allowed: float) -> float:
        if self.threshold is not None:
            return self.threshold
        seen = [averages[layer.name][layer.mask] for layer in state.layers if layer.name in averages]
        values = np.concatenate([np.empty(0, np.float32), *seen])
        if values.size == 0:
            return 0.0
        quantile = self.quantile
        if quantile is None:
            surplus = state.active - active_count(state.size, allowed)
            quantile = min(1.0, max(0.0, 2 * surplus / values.size))
        return float(np.quantile(values, quantile))

    def _zero(self, state: SparseState, averages: Mapping[str, NDArray[Any]], settled: Masks, allowed: float) -> None:
        """Zero the settled weights of smallest average, as far as the cap allows."""
        candidates = sum(int(np.count_nonzero(mask)) for mask in settled.values())
        sparsity = min(allowed, 1 - (state.active - candidates) / state.size)
        if candidates == 0 or sparsity <= state.mask_sparsity:
            return
        highest = max((float(average.max()) for average in averages.values()), default=0.0)
        scores = {}
        for layer in state.layers:
            unjudged = np.full(layer.mask.shape, 1 + highest, dtype=np.float32)
            average = averages.get(layer.name, unjudged)
            scores[layer.name] = np.where(layer.mask & ~settled[layer.name], np.float32(2 + 2 * highest), average)
        # A cap is never passed, and whole groups may not fill it: then they are asked for less.
        most = active_count(state.size, self.goal(state)[1])
        while sparsity > state.mask_sparsity:
            chosen = select(state.masks, scores, sparsity, self.target_pattern, self.target_allocation)
            # An allocation may want more of a layer than has settled there.
            masks = {layer.name: chosen[layer.name] | (layer.mask & ~settled[layer.name]) for layer in state.layers}
            excess = most - sum(int(np.count_nonzero(mask)) for mask in masks.values())
            if excess <= 0:
                state.set_masks(masks)
                return
            sparsity -= excess / state.size

    def _whole_groups(self, layer: SparseLayer, settled: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where all active weights of a group of the pattern have settled."""
        pattern = self.target_pattern
        whole = np.asarray(pattern.fold(settled | ~layer.mask).all(axis=2))
        return pattern.spread(whole, layer.target.shape) & settled

    def _revive(self, state: SparseState, averages: Mapping[str, NDArray[Any]], factor: float) -> None:
        if state.progress >= self.schedule.end:
            return
        masks = {}
        for layer in state.layers:
            if layer.name not in averages:
                continue
            average = averages[layer.name]
            active = average[layer.mask]
            typical = float(active.astype(np.float64).mean()) if active.size else 0.0
            back = ~layer.mask & (average > factor * typical) if typical > 0 else np.zeros_like(layer.mask)
            layer.buffers["patience"][back] = 0
            masks[layer.name] = layer.mask | back
        state.set_masks(masks)
