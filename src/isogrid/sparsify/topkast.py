"""Top-KAST: the largest weights are used, and some more are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isogrid.checks import check_fraction, check_sparsity
from isogrid.errors import UsageError
from isogrid.masks import zero_pruned_
from isogrid.rules.method import Usage
from isogrid.sparsify.method import register_method
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import select
from isogrid.sparsify.shadow import ShadowMethod, candidates
from isogrid.sparsify.state import SparseLayer, SparseState
from isogrid.updates import check_interval, update_interval


@register_method("topkast")
@dataclass(frozen=True)
class TopKAST(ShadowMethod, Selecting):
    """Top-KAST: always sparse training with the top-K weights, of which a wider set is trained.

    Source: Jayakumar et al. 2021, arXiv:2106.03517.  The forward pass uses the set A, the D weights of largest
    magnitude (``D = 1 - sparsity``, in each layer by default); the optimiser moves a larger set B, the ``D + M``
    largest (``1 - backward_sparsity``), with the gradients of the forward pass that used A.  Weights outside of B stay
    where they are.  A weight of B that grows larger than one of A takes its place when the sets are renewed.

    So that newcomers have a chance, all of B is pulled to zero, newcomers harder than those in use (section 2.3); the
    coefficient is one of weight decay: ``lam w`` is added to the gradient in A, ``(lam / D) w`` in B outside of A,
    which is the penalty ``lam/2 (sum_A w^2 + sum_{B - A} w^2 / D)``.  Nothing needs to be added to the loss.

    From `explore_until` on nothing is explored: B is A, and both stay as they are.

    Adopted zeros stay zero.

    Attributes:
        backward_sparsity: sparsity of B, at most that of A; by default B has twice as many weights as A, as in the
            paper's 90 % forward with 80 % backward.
        lam: coefficient of the exploration penalty, 1e-4 as in the paper's ImageNet experiments; 0 for none.  It adds
            to the optimiser's own weight decay, which acts on B only.
        explore_until: the fraction of the training at which exploration ends; the paper's default is the whole.
        delta_t: steps between two renewals of A and B; a hundredth of the training by default.  The paper renews at
            every step, and found every 100 to do as well.

    Raises:
        UsageError: a number is out of range.

    >>> TopKAST(sparsity=0.9).trained_sparsity, TopKAST(sparsity=0.8, backward_sparsity=0.5).trained_sparsity
    (0.8, 0.5)
    """

    backward_sparsity: float | None = None
    lam: float = 1e-4
    explore_until: float = 1.0
    delta_t: int | None = None

    usage: ClassVar[Usage] = Usage.RESTART
    default_allocation: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval("TopKAST", self.delta_t)
        check_fraction("TopKAST", "explore_until", self.explore_until)
        if self.backward_sparsity is not None:
            check_sparsity("TopKAST with a backward sparsity", self.backward_sparsity)
        if not (math.isfinite(self.lam) and self.lam >= 0):
            raise UsageError(f"TopKAST got lam={self.lam!r}; accepted is a finite number >= 0.")

    @property
    def trained_sparsity(self) -> float:
        """The sparsity of the set that is trained, B."""
        if self.backward_sparsity is None:
            return round(max(0.0, 1 - 2 * (1 - self.target_sparsity)), 12)
        return min(self.backward_sparsity, self.target_sparsity)

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        self._renew(state)

    def used(self, state: SparseState, layer: SparseLayer) -> Tensor:
        return layer.buffers["trained"]

    def moving(self, state: SparseState, layer: SparseLayer) -> Tensor:
        return layer.buffers["trained"]

    def before_step(self, state: SparseState) -> None:
        for layer in state.layers:
            if layer.gradient is None or self.lam == 0:
                continue
            strength = torch.where(layer.mask, self.lam, self.lam / (1 - self.target_sparsity))
            pulled = layer.gradient + (strength * layer.buffers["dense"]).to(layer.gradient.dtype)
            layer.gradient = zero_pruned_(pulled, layer.buffers["trained"])

    def after_step(self, state: SparseState) -> None:
        if not self.explores(state):
            for layer in state.layers:
                layer.buffers["trained"].copy_(layer.mask)
        elif state.step % update_interval(self.delta_t, state.total_steps) == 0:
            self._renew(state)

    def explores(self, state: SparseState) -> bool:
        """Whether weights beyond those in use are trained at this moment."""
        return state.progress < self.explore_until

    def telemetry(self, state: SparseState) -> dict[str, float]:
        trained = sum(int(layer.buffers["trained"].sum()) for layer in state.layers)
        return {**super().telemetry(state), "trained_sparsity": 1 - trained / state.size}

    def _renew(self, state: SparseState) -> None:
        """A and B anew, from the dense weights."""
        state.check_finite()
        scores = {layer.name: abs(layer.to_array(layer.buffers["dense"])) for layer in state.layers}
        free = candidates(state)
        pattern, allocation = self.target_pattern, self.target_allocation
        used = select(free, scores, self.target_sparsity, pattern, allocation)
        trained = used
        if self.explores(state):
            wider = select(free, scores, self.trained_sparsity, pattern, allocation)
            trained = {name: wider[name] | mask for name, mask in used.items()}
        for layer in state.layers:
            layer.buffers["trained"] = trained[layer.name].clone()
        state.set_masks(used)
