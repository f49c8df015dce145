"""Dynamic sparse training: the number of active weights stays, and which they are moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from isogrid.rules.dynamic import Exchange, RigLRule, SETRule, not_finite
from isogrid.rules.method import Gradients
from isogrid.sparsify.method import register_method
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.state import SparseLayer, SparseState


@dataclass(frozen=True)
class DropAndGrow(Exchange, Selecting):
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

    `isogrid.rules.dynamic.Exchange` has the options.
    """

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        self.plant(state)

    def after_step(self, state: SparseState) -> None:
        if self.due(state, state.step):
            self.exchange(state)


@register_method("set")
@dataclass(frozen=True)
class SET(SETRule, DropAndGrow):
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


@register_method("rigl")
@dataclass(frozen=True)
class RigL(RigLRule, DropAndGrow):
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
                raise not_finite(layer.name, state.step)
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
        interval = self.interval(state.total_steps)
        update = interval * math.ceil((state.step + 1) / interval)
        position = min(self.window, interval) - 1 - (update - state.step - 1)
        return position if position >= 0 and self.due(state, update) else None
