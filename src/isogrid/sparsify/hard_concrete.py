"""L0 regularisation: every weight, or group of weights, has a random gate, and open gates cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from isogrid.errors import PatternError, UsageError
from isogrid.masks import zero_pruned_
from isogrid.patterns import Unstructured
from isogrid.rules.method import Usage
from isogrid.sparsify.aimed import Aimed
from isogrid.sparsify.learner import Learner, check_trained
from isogrid.sparsify.method import register_method
from isogrid.sparsify.state import SparseLayer, SparseState

_EPSILON = 1e-6
"""How near to 0 and 1 the uniform noise comes, as in the authors' code."""
_BOUND = math.log(1e2)
"""How far log alpha may go from 0, as in the authors' code."""
_AJAR = 0.01
"""What a gate is set back to that must stay open."""


@register_method("l0")
@dataclass(frozen=True)
class HardConcrete(Aimed):
    """L0 regularisation with hard concrete gates: the expected number of nonzero weights is part of the loss.

    Source: Louizos, Welling and Kingma 2018, arXiv:1712.01312.  The model uses ``W' = W z``.  In training the gates
    are random (eq. 10 and 11),

        ``u ~ U(0, 1)``, ``s = sigmoid((log u - log(1 - u) + log_alpha) / beta)``,
        ``z = min(1, max(0, s (zeta - gamma) + gamma))``,

    and ``lam sum sigmoid(log_alpha - beta log(-gamma / zeta))``, the expected number of open gates (eq. 12; of weights
    behind them, where a gate has several), is added to the loss through its gradient: nothing needs to be added by the
    loop.  Otherwise the gates are ``z = min(1, max(0, sigmoid(log_alpha) (zeta - gamma) + gamma))`` (eq. 13), and so
    the weights that evaluation, saving and copies see are sparse.

    There is one gate a weight, or one for every group of a `pattern`: ``"row"`` for output units, ``"channel"`` for
    inputs as in the paper.  One sample is drawn for each optimiser step, from the seed and the step alone: resumed
    trainings and all ranks see the same.  From a forward pass in training mode up to the step that follows the
    parameters hold the sampled weights, because ``backward`` needs them; forward passes in eval mode or without
    gradients see the deterministic ones at all times.  log_alpha is moved by an optimiser of the loop's kind and held
    between ``-log 100`` and ``log 100``, as in the authors' code.

    With a `sparsity`, which is an addition of this library, the masks follow `schedule` at least and never pass the
    sparsity: see `Aimed`.  Gates that are folded are not sampled any more.

    Attributes:
        lam: price of an open gate and weight; of the order of one over the number of training samples in the paper.
        drop_rate: share of gates that the start takes for closed: ``log_alpha`` is drawn around
            ``log(1 - drop_rate) - log(drop_rate)`` with a deviation of 0.01.  0.5 halves all weights at the start; for
            a trained model less is better.
        beta: temperature of the gates.
        gamma, zeta: the interval to which the gates are stretched; gamma: below 0, zeta: above 1.
        gate_lr: learning rate of log_alpha, scaled as the loop's schedule scales that of the weights; None, as
            published, for the weights' own.

    Raises:
        UsageError: a number is out of range.

    >>> HardConcrete(lam=1e-4, pattern="row").gate(torch.tensor([-3.0, 0.0, 3.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """

    lam: float = 2e-5
    drop_rate: float = 0.5
    beta: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1
    gate_lr: float | None = None

    usage: ClassVar[Usage] = Usage.RESTART

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, fine, accepted in (
            ("lam", self.lam >= 0, "a finite number >= 0"),
            ("drop_rate", 0 < self.drop_rate < 1, "a number between 0 and 1"),
            ("beta", self.beta > 0, "a finite number > 0"),
            ("gamma", self.gamma < 0, "a finite number < 0"),
            ("zeta", self.zeta > 1, "a finite number > 1"),
            ("gate_lr", self.gate_lr is None or self.gate_lr > 0, "a number > 0, or None for that of the weights"),
        ):
            value = getattr(self, name)
            if not fine or (value is not None and not math.isfinite(value)):
                raise UsageError(f"HardConcrete got {name}={value!r}; accepted is {accepted}.")

    @property
    def samples(self) -> bool:
        return True

    # -- gates -------------------------------------------------------------------------------------------------------

    def gate(self, log_alpha: Tensor) -> Tensor:
        """The deterministic gates, eq. 13."""
        return self._stretched(torch.sigmoid(log_alpha)).clamp_(0, 1)

    def _stretched(self, s: Tensor) -> Tensor:
        return s * (self.zeta - self.gamma) + self.gamma

    def _gates(self, state: SparseState, layer: SparseLayer, *, sampled: bool) -> Tensor:
        """The gates of this step's forward passes."""
        if not sampled:
            return self.gate(layer.buffers["log_alpha"])
        if "gates" not in layer.scratch:  # drawn once a step, for the passes and their gradients
            log_alpha = layer.buffers["log_alpha"]
            uniform = state.rng("gates", layer).random(tuple(log_alpha.shape)).clip(_EPSILON, 1 - _EPSILON)
            noise = torch.logit(torch.from_numpy(uniform)).to(log_alpha)
            layer.scratch["gates"] = self._stretched(torch.sigmoid((noise + log_alpha) / self.beta)).clamp_(0, 1)
        return layer.scratch["gates"]

    def _slopes(self, gates: Tensor, *, sampled: bool) -> Tensor:
        """The derivatives of these gates by log_alpha: 0 where they are at an end."""
        s = (gates - self.gamma) / (self.zeta - self.gamma)
        slopes = s * (1 - s) * ((self.zeta - self.gamma) / (self.beta if sampled else 1.0))
        return slopes.masked_fill_((gates <= 0) | (gates >= 1), 0)

    def _open(self, layer: SparseLayer, gates: Tensor) -> Tensor:
        """Where a weight has a part: not behind a closed gate, nor held at zero by an aim or an adoption."""
        open_ = _spread(layer, gates) != 0
        for held in ("adopted", "allowed"):
            if held in layer.buffers:
                open_ &= layer.buffers[held]
        return open_

    # -- the training ------------------------------------------------------------------------------------------------

    def check(self, state: SparseState) -> None:
        super().check(state)
        for layer in state.layers:
            if self.target_pattern.grid(layer.target.shape).partitions > 1:
                raise PatternError(
                    f"HardConcrete cannot hold pattern {self.target_pattern}, which wants equally many zeros in every "
                    "part of a layer, while gates close where they do; accepted are unstructured, block, row and "
                    "channel."
                )
        check_trained("HardConcrete", "gates", state)

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        learner = Learner(state)
        for layer in state.layers:
            grid = self.target_pattern.grid(layer.target.shape)
            shape = tuple(layer.weight.shape)
            if self.target_pattern != Unstructured():
                shape = (grid.groups,)
                cells = np.broadcast_to(np.arange(grid.groups)[None, :, None], (1, grid.groups, grid.size))
                layer.buffers["group"] = layer.from_array(self.target_pattern.unfold(cells, layer.target.shape))
            start = math.log(1 - self.drop_rate) - math.log(self.drop_rate)
            drawn = state.rng("log_alpha", layer).normal(start, 1e-2, shape)
            learner.start(layer, "log_alpha", torch.from_numpy(drawn))
        self.follow(state)

    def effective(self, state: SparseState, layer: SparseLayer) -> Tensor:
        dense = layer.buffers["dense"]
        if self.closed(state):
            return super().effective(state, layer)
        return zero_pruned_(dense * _spread(layer, self.gate(layer.buffers["log_alpha"])).to(dense.dtype), layer.mask)

    def training_weight(self, state: SparseState, layer: SparseLayer) -> Tensor | None:
        if self.closed(state):
            return None
        dense = layer.buffers["dense"]
        gates = self._gates(state, layer, sampled=True)
        return zero_pruned_(dense * _spread(layer, gates).to(dense.dtype), self._open(layer, gates))

    def used(self, state: SparseState, layer: SparseLayer) -> Tensor:
        if self.closed(state):
            return layer.mask
        gates = self._gates(state, layer, sampled=state.sampled)
        return self._open(layer, gates)

    def before_step(self, state: SparseState) -> None:
        if self.closed(state):
            return
        learner = Learner(state)
        price = 0.0 if self.arrived(state) else self.lam
        for layer in state.layers:
            log_alpha = layer.buffers["log_alpha"]
            open_ = torch.sigmoid(log_alpha - self.beta * math.log(-self.gamma / self.zeta))
            gradient = (price * layer.size / max(1, log_alpha.numel())) * open_ * (1 - open_)
            if layer.gradient is not None:
                gates = self._gates(state, layer, sampled=state.sampled)
                slopes = self._slopes(gates, sampled=state.sampled)
                used = zero_pruned_(layer.gradient.clone(), self._open(layer, gates)).to(log_alpha.dtype)
                gradient = gradient + _pool(layer, used * layer.buffers["dense"] * _spread(layer, slopes))
                layer.gradient = (used * _spread(layer, gates)).to(layer.gradient.dtype)
            learner.step(layer, "log_alpha", gradient, lr=self.gate_lr)
            log_alpha.clamp_(-_BOUND, _BOUND)

    def kept(self, state: SparseState, layer: SparseLayer) -> Tensor:
        return _spread(layer, self.gate(layer.buffers["log_alpha"])) > 0

    def worth(self, state: SparseState, layer: SparseLayer) -> Tensor:
        return _spread(layer, layer.buffers["log_alpha"])

    def keep(self, state: SparseState, layer: SparseLayer, wanted: Tensor) -> None:
        log_alpha = layer.buffers["log_alpha"]
        s = (_AJAR - self.gamma) / (self.zeta - self.gamma)
        lowest = math.log(s / (1 - s))
        needed = _pool(layer, wanted.to(log_alpha.dtype)) > 0
        log_alpha.copy_(torch.where(needed, log_alpha.clamp(min=lowest), log_alpha))

    def telemetry(self, state: SparseState) -> dict[str, float]:
        shown = super().telemetry(state)
        if not self.closed(state):
            shift = self.beta * math.log(-self.gamma / self.zeta)
            expected = sum(
                float(torch.sigmoid(layer.buffers["log_alpha"] - shift).mean()) * layer.size
                for layer in state.layers
                if layer.size
            )
            shown["expected_sparsity"] = 1 - expected / state.size
        return shown


def _spread(layer: SparseLayer, gates: Tensor) -> Tensor:
    """One number a gate to one a weight."""
    group = layer.buffers.get("group")
    return gates if group is None else gates[group]


def _pool(layer: SparseLayer, values: Tensor) -> Tensor:
    """One number a weight to the sum of each gate's weights."""
    group = layer.buffers.get("group")
    if group is None:
        return values
    return torch.zeros_like(layer.buffers["log_alpha"]).index_add_(0, group.flatten(), values.flatten())
