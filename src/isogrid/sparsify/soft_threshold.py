"""Soft threshold reparameterisation: every layer learns the threshold below which its weights are zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isogrid.errors import UsageError
from isogrid.masks import zero_pruned_
from isogrid.names import unknown_name
from isogrid.rules.method import Usage
from isogrid.sparsify.aimed import Aimed
from isogrid.sparsify.learner import Learner
from isogrid.sparsify.method import register_method
from isogrid.sparsify.state import SparseLayer, SparseState

_FUNCTIONS = ("sigmoid", "exp")


@register_method("str")
@dataclass(frozen=True)
class SoftThreshold(Aimed):
    """Soft threshold reparameterisation (STR): every layer learns the threshold below which its weights are zero.

    Source: Kusupati et al. 2020, arXiv:2002.03231.  The model uses ``W' = sign(W) relu(|W| - g(s))`` with one s a
    layer (eq. 3).  Gradients are those of that function (eq. 5): ``dL/dW = dL/dW'`` where W' is not zero, else 0, and
    ``dL/ds = -g'(s) sum(dL/dW' sign(W'))``.  s starts far below 0, where g(s) is next to 0, and weight decay draws it
    towards 0, so thresholds rise; where the loss objects, its gradient holds them.  How sparse the model becomes
    depends on `s_init`, the weight decay, the learning rate and the length of the training together: the paper's
    ResNet-50 with 90 % used ``s_init=-3200`` with a weight decay of 2.25e-5 for 100 epochs of ImageNet.

    The thresholds are moved by an optimiser of the loop's kind, as one more parameter of the weight's group would be.

    With a `sparsity`, which is an addition of this library, the masks follow `schedule` at least and never pass the
    sparsity: see `Aimed`.  What is worth least is then what lies farthest below its layer's threshold.

    Attributes:
        function: g, ``sigmoid`` (the paper's for CNNs) or ``exp``.
        s_init: where s starts.
        threshold_lr: learning rate of s, scaled as the loop's schedule scales that of the weights; None, as published,
            for the weights' own.
        decay: weight decay of s; None, as published, for the weights' own.

    Raises:
        UsageError: an unknown function, a number out of range, or a pattern other than unstructured.

    >>> SoftThreshold(s_init=-5.0).threshold(torch.tensor(-5.0))
    tensor(0.0067)
    """

    function: str = "sigmoid"
    s_init: float = -10.0
    threshold_lr: float | None = None
    decay: float | None = None

    usage: ClassVar[Usage] = Usage.RESTART

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need_unstructured()
        if self.function not in _FUNCTIONS:
            raise unknown_name("function of SoftThreshold", self.function, _FUNCTIONS)
        if not math.isfinite(self.s_init):
            raise UsageError(f"SoftThreshold got s_init={self.s_init!r}; accepted is a finite number.")
        if self.threshold_lr is not None and not (math.isfinite(self.threshold_lr) and self.threshold_lr > 0):
            raise UsageError(
                f"SoftThreshold got threshold_lr={self.threshold_lr!r}; accepted is a number > 0, or None for that of "
                "the weights."
            )
        if self.decay is not None and not (math.isfinite(self.decay) and self.decay >= 0):
            raise UsageError(
                f"SoftThreshold got decay={self.decay!r}; accepted is a finite number >= 0, or None for that of the "
                "weights."
            )

    def threshold(self, s: Tensor) -> Tensor:
        """g(s)."""
        return torch.sigmoid(s) if self.function == "sigmoid" else torch.exp(s)

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        learner = Learner(state)
        for layer in state.layers:
            learner.start(layer, "s", torch.tensor(self.s_init))
        self.follow(state)

    def effective(self, state: SparseState, layer: SparseLayer) -> Tensor:
        dense = layer.buffers["dense"]
        if self.closed(state):
            return super().effective(state, layer)
        pulled = dense.sign() * (dense.abs() - self.threshold(layer.buffers["s"]).to(dense.dtype)).relu_()
        return zero_pruned_(pulled, layer.mask)

    def before_step(self, state: SparseState) -> None:
        if self.closed(state):
            return
        learner = Learner(state)
        for layer in state.layers:
            if layer.gradient is None:
                continue
            used = zero_pruned_(layer.gradient.clone(), layer.mask)
            s = layer.buffers["s"]
            threshold = self.threshold(s)
            slope = threshold * (1 - threshold) if self.function == "sigmoid" else threshold
            pressed = (used * layer.buffers["dense"].sign()).to(s.dtype).sum()
            learner.step(layer, "s", -slope * pressed, lr=self.threshold_lr, decay=self.decay)
            layer.gradient = used

    def kept(self, state: SparseState, layer: SparseLayer) -> Tensor:
        dense = layer.buffers["dense"]
        return dense.abs() > self.threshold(layer.buffers["s"]).to(dense.dtype)

    def worth(self, state: SparseState, layer: SparseLayer) -> Tensor:
        dense = layer.buffers["dense"]
        return dense.abs() - self.threshold(layer.buffers["s"]).to(dense.dtype)

    def keep(self, state: SparseState, layer: SparseLayer, wanted: Tensor) -> None:
        if not bool(wanted.any()):
            return
        lowest = layer.buffers["dense"][wanted].abs().min()
        s = layer.buffers["s"]
        if bool(lowest <= self.threshold(s).to(lowest.dtype)):
            # A little below the smallest weight that shall stay, and where weights are coarse by one of their steps; a
            # weight of nought is kept by no threshold.
            below = min(0.999 * float(lowest), float(torch.nextafter(lowest, torch.zeros_like(lowest))))
            just = torch.tensor(max(below, 1e-12), dtype=torch.float64)
            s.fill_(float(torch.logit(just) if self.function == "sigmoid" else torch.log(just)))

    def telemetry(self, state: SparseState) -> dict[str, float]:
        shown = super().telemetry(state)
        if not self.closed(state):
            thresholds = [float(self.threshold(layer.buffers["s"])) for layer in state.layers]
            shown["mean_threshold"] = sum(thresholds) / len(thresholds)
        return shown
