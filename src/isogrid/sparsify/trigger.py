"""The sparse trigger: weights whose gradients stay small become zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isogrid.errors import PatternError, TrainingError
from isogrid.patterns import active_count
from isogrid.sparsify.method import Gradients, register_method
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import select
from isogrid.sparsify.state import SparseLayer, SparseState
from isogrid.trigger_options import TriggerOptions
from isogrid.updates import update_due


@register_method("trigger")
@dataclass(frozen=True)
class Trigger(TriggerOptions, Selecting):
    """Sparse trigger (稀疏触发): a weight whose gradient has stayed small is set to zero.

    Each weight keeps a moving average ``m <- beta m + (1 - beta) |g|``.  At each check a weight with ``m`` below the
    threshold counts one more, any other starts again at nought; who has counted to `patience` is zeroed, smallest
    average first, as long as the sparsity stays at or below `sparsity`.

    The threshold is absolute (`threshold`), or the `quantile` of the active weights' averages.  With neither, the
    trigger is *paced*: at each check the threshold is the quantile that lets twice as many weights pass as `schedule`
    asks for, so that the cap is reached at the ramp's end and the rest of the training recovers.

    The method is the sponsor's; a small gradient says that a weight has settled, not that it is useless, which is why
    magnitude ranks better at high sparsity (the results page has the figures).  Growth by gradient is that of Evci et
    al. 2020 (arXiv:1911.11134).

    Attributes:
        sparsity: the cap of what the masks hold at zero, and when paced also the goal (which whole groups of a pattern
            may miss by one).
        threshold: absolute bound on the moving average, in units of the gradient.
        quantile: bound as a quantile of the active weights' averages, between 0 and 1.
        patience: consecutive checks for which the average must stay below the bound.
        beta: decay of the moving average, a step.
        revive: a pruned weight becomes active again (at zero) when its average exceeds that many times the mean
            average of its layer's active weights; None never revives.  Revival ends with the ramp.
        schedule: the pace, in fractions of the training; also the end of zeroing and revival in all three modes.
        delta_t: steps between two checks; a hundredth of the training by default.

    Raises:
        UsageError: both `threshold` and `quantile` are given, or a number is out of range.

    >>> Trigger(sparsity=0.9, quantile=0.05, patience=3).mode
    'quantile'
    """

    def check(self, state: SparseState) -> None:
        super().check(state)
        for layer in state.layers:
            if self.target_pattern.grid(layer.target.shape).partitions > 1:
                raise PatternError(
                    f"Trigger cannot hold pattern {self.target_pattern}, which wants equally many zeros in every part "
                    "of a layer, while weights settle where they do; accepted are unstructured, block, row and channel."
                )

    def gradients(self, state: SparseState) -> Gradients:
        if state.progress >= self.schedule.end:
            return "none"
        return "active" if self.revive is None else "dense"

    def before_step(self, state: SparseState) -> None:
        for layer in state.layers:
            if layer.gradient is None:
                continue
            size = layer.gradient.float().abs()
            if not bool(torch.isfinite(size).all()):
                raise TrainingError(
                    f"The gradient of {layer.name} is not finite at step {state.step}; the trigger can only judge "
                    "finite gradients, so lower the learning rate or clip them."
                )
            if "average" in layer.buffers:
                layer.buffers["average"].lerp_(size, 1 - self.beta)
            else:
                # The average starts at the first gradient: a layer that has had none is not judged.
                layer.buffers["average"] = size.clone()
                layer.buffers["patience"] = torch.zeros_like(layer.mask, dtype=torch.int32)

    def after_step(self, state: SparseState) -> None:
        if not update_due(state.step, state.total_steps, self.delta_t, self.schedule):
            return
        if self.revive is not None:
            self._revive(state, self.revive)
        initial = float(state.numbers["initial_sparsity"])
        goal = max(initial, self.target_sparsity)
        allowed = self.schedule.value(state.progress, initial, goal) if self.mode == "paced" else goal
        closing = self.mode == "paced" and state.progress >= self.schedule.end
        settled = self._settled(state, allowed)
        if closing:
            settled = {layer.name: layer.mask for layer in state.layers}
        self._zero(state, settled, allowed)

    def _settled(self, state: SparseState, allowed: float) -> dict[str, Tensor]:
        """Where the average has stayed below the bound for long enough."""
        bound = self._bound(state, allowed)
        settled = {}
        for layer in state.layers:
            if "average" not in layer.buffers:
                settled[layer.name] = torch.zeros_like(layer.mask)
                continue
            small = (layer.buffers["average"] <= bound) & layer.mask
            patience = layer.buffers["patience"]
            patience.add_(1).mul_(small)
            settled[layer.name] = self._whole_groups(layer, patience >= self.patience)
        return settled

    def _bound(self, state: SparseState, allowed: float) -> float:
        if self.threshold is not None:
            return self.threshold
        seen = [layer.buffers["average"][layer.mask].cpu() for layer in _judged(state)]
        averages = torch.cat([torch.empty(0), *seen]).numpy()
        if averages.size == 0:
            return 0.0
        quantile = self.quantile
        if quantile is None:
            surplus = state.active - active_count(state.size, allowed)
            quantile = min(1.0, max(0.0, 2 * surplus / averages.size))
        return float(np.quantile(averages, quantile))

    def _zero(self, state: SparseState, settled: dict[str, Tensor], allowed: float) -> None:
        """Zero the settled weights of smallest average, as far as the cap allows."""
        candidates = sum(int(torch.count_nonzero(mask)) for mask in settled.values())
        sparsity = min(allowed, 1 - (state.active - candidates) / state.size)
        if candidates == 0 or sparsity <= state.mask_sparsity:
            return
        highest = max((float(layer.buffers["average"].max()) for layer in _judged(state)), default=0.0)
        scores = {}
        for layer in state.layers:
            unjudged = torch.full_like(layer.mask, 1 + highest, dtype=torch.float32)
            average = layer.buffers.get("average", unjudged).clone()
            average.masked_fill_(layer.mask & ~settled[layer.name], 2 + 2 * highest)
            scores[layer.name] = layer.to_array(average)
        # A cap is never passed, and whole groups may not fill it: then they are asked for less.
        most = active_count(state.size, max(float(state.numbers["initial_sparsity"]), self.target_sparsity))
        while sparsity > state.mask_sparsity:
            chosen = select(state, scores, sparsity, self.target_pattern, self.target_allocation)
            # An allocation may want more of a layer than has settled there.
            masks = {layer.name: chosen[layer.name] | (layer.mask & ~settled[layer.name]) for layer in state.layers}
            excess = most - sum(int(torch.count_nonzero(mask)) for mask in masks.values())
            if excess <= 0:
                state.set_masks(masks)
                return
            sparsity -= excess / state.size

    def _whole_groups(self, layer: SparseLayer, settled: Tensor) -> Tensor:
        """Where all active weights of a group of the pattern have settled."""
        pattern, shape = self.target_pattern, layer.target.shape
        whole = np.asarray(pattern.fold(layer.to_array(settled | layer.pruned)).all(axis=2))
        return layer.from_array(pattern.spread(whole, shape)) & settled

    def _revive(self, state: SparseState, factor: float) -> None:
        if state.progress >= self.schedule.end:
            return
        masks = {}
        for layer in _judged(state):
            average = layer.buffers["average"]
            typical = _mean(average[layer.mask])
            back = layer.pruned & (average > factor * typical) if typical > 0 else torch.zeros_like(layer.mask)
            layer.buffers["patience"].masked_fill_(back, 0)
            masks[layer.name] = layer.mask | back
        state.set_masks(masks)


def _judged(state: SparseState) -> list[SparseLayer]:
    """The layers that have weights, and of which a gradient has been seen."""
    return [layer for layer in state.layers if layer.size and "average" in layer.buffers]


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if values.numel() else 0.0
