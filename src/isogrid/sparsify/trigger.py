"""The sparse trigger: weights whose gradients stay small become zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from isogrid.rules.method import Gradients
from isogrid.rules.trigger import Judged, TriggerRule, not_finite
from isogrid.sparsify.method import register_method
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.state import SparseLayer, SparseState
from isogrid.updates import closing_step


@register_method("trigger")
@dataclass(frozen=True)
class Trigger(TriggerRule, Selecting):
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
        self.check_partitions(state)

    def gradients(self, state: SparseState) -> Gradients:
        if state.step >= closing_step(state.total_steps, self.schedule):
            return "none"
        return "active" if self.revive is None else "dense"

    def before_step(self, state: SparseState) -> None:
        for layer in state.layers:
            if layer.gradient is None:
                continue
            size = layer.gradient.float().abs()
            if not bool(torch.isfinite(size).all()):
                raise not_finite(layer.name, f"is not finite at step {state.step}")
            if "average" in layer.buffers:
                layer.buffers["average"].lerp_(size, 1 - self.beta)
            else:
                # The average starts at the first gradient: a layer that has had none is not judged.
                layer.buffers["average"] = size.clone()
                layer.buffers["patience"] = torch.zeros_like(layer.mask, dtype=torch.int32)

    def after_step(self, state: SparseState) -> None:
        if not self.due(state, state.step):
            return
        layers = {layer.name: _judged(layer) for layer in state.layers}
        masks = self.judge(layers, state.progress, self.goal(state))
        for layer in state.layers:
            if "average" in layer.buffers:
                layer.buffers["patience"].copy_(layer.from_array(layers[layer.name].patience))
        if masks is not None:
            state.write_masks(masks)


def _judged(layer: SparseLayer) -> Judged:
    mask = layer.read_mask()
    if "average" not in layer.buffers:
        return Judged(mask, None, np.zeros(mask.shape, dtype=np.int32))
    return Judged(mask, layer.to_array(layer.buffers["average"]), layer.to_array(layer.buffers["patience"]))
