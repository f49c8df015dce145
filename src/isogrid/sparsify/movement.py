"""Movement pruning: scores learned in fine-tuning say which weights stay."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from isogrid.errors import UsageError
from isogrid.masks import zero_pruned_
from isogrid.rules.method import Usage
from isogrid.schedules import Cubic, Schedule
from isogrid.sparsify.aimed import Aimed
from isogrid.sparsify.learner import Learner, check_trained
from isogrid.sparsify.method import register_method
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import select
from isogrid.sparsify.shadow import ShadowMethod, candidates
from isogrid.sparsify.state import SparseLayer, SparseState
from isogrid.updates import check_interval, update_due, update_interval


def _start(state: SparseState) -> None:
    learner = Learner(state)
    for layer in state.layers:
        learner.start(layer, "score", torch.zeros_like(layer.weight))


def _learn(state: SparseState, lr: float | None, pull: float = 0.0) -> None:
    """One step of the scores, and the weights' own gradient masked.

    The gradient of a score is ``dL/dW' W``, the straight-through one, plus that of ``pull`` times the mean over layers
    of a layer's mean ``sigmoid(S)``.
    """
    learner = Learner(state)
    for layer in state.layers:
        score = layer.buffers["score"]
        gradient = torch.zeros_like(score)
        if layer.gradient is not None:
            gradient = layer.gradient.to(score.dtype) * layer.buffers["dense"]
            layer.gradient = zero_pruned_(layer.gradient.clone(), layer.mask)
        elif pull == 0:
            continue
        if pull:
            share = torch.sigmoid(score)
            gradient = gradient + (pull / (len(state.layers) * max(1, layer.size))) * share * (1 - share)
        learner.step(layer, "score", gradient, lr=lr)


def _check_rate(owner: str, score_lr: float | None) -> None:
    if score_lr is not None and not (math.isfinite(score_lr) and score_lr > 0):
        raise UsageError(
            f"{owner} got score_lr={score_lr!r}; accepted is a number > 0, or None for that of the weights."
        )


@register_method("movement")
@dataclass(frozen=True)
class Movement(ShadowMethod, Selecting):
    """Movement pruning: weights that move away from zero in fine-tuning stay, those that move towards it go.

    Source: Sanh, Wolf and Rush 2020, arXiv:2005.07683, section 4 (hard movement pruning).  Every weight has a score S,
    at first 0, and the model uses ``W' = W M`` with the mask M of the highest scores, in each layer by default (the
    paper's "local"; ``allocation="global"`` ranks all together).  Scores are learned with the straight-through
    gradient ``dL/dS = dL/dW' W``, at pruned places as well, so that pruned weights may come back; a weight moves by its
    gradient where it is in use.  Sparsity rises along a cubic ramp, and masks follow the scores up to the last renewal
    of the training.

    The scores are moved by an optimiser of the loop's kind: SGD gives the paper's equation, Adam its experiments.  A
    clipping norm counts the gradient of the effective weights at all places, for all are used.

    Adopted zeros stay zero.

    Attributes:
        score_lr: learning rate of the scores, 1e-2 as in the paper's experiments, scaled as the loop's schedule scales
            that of the weights; None for the weights' own.
        schedule: the ramp, in fractions of the training; the default is that of the paper's SQuAD runs.
        delta_t: steps between two renewals of the masks; a hundredth of the training by default.  The paper renews at
            every step.

    Raises:
        UsageError: a number is out of range.

    >>> Movement(sparsity=0.85).schedule
    Cubic(begin=0.1, end=0.8)
    """

    score_lr: float | None = 1e-2
    schedule: Schedule = field(default_factory=lambda: Cubic(begin=0.1, end=0.8))
    delta_t: int | None = None

    usage: ClassVar[Usage] = Usage.CLIMB
    default_allocation: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval("Movement", self.delta_t)
        _check_rate("Movement", self.score_lr)

    def check(self, state: SparseState) -> None:
        super().check(state)
        check_trained("Movement", "scores", state)

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        _start(state)

    def used(self, state: SparseState, layer: SparseLayer) -> None:
        return None

    def before_step(self, state: SparseState) -> None:
        _learn(state, self.score_lr)

    def after_step(self, state: SparseState) -> None:
        if not self._due(state):
            return
        state.check_finite()
        # Not more where more is pruned already: each layer gets its share of the target, and adopted zeros stay.
        initial = min(float(state.numbers["initial_sparsity"]), self.target_sparsity)
        sparsity = self.schedule.value(state.progress, initial, self.target_sparsity)
        scores = {layer.name: layer.to_array(layer.buffers["score"]) for layer in state.layers}
        state.set_masks(select(candidates(state), scores, sparsity, self.target_pattern, self.target_allocation))

    def _due(self, state: SparseState) -> bool:
        """As the ramp rises, and behind it, but for the last step: what came back then would never be trained."""
        if update_due(state.step, state.total_steps, self.delta_t, self.schedule):
            return True
        behind = self.schedule.end <= state.progress < 1
        return behind and state.step % update_interval(self.delta_t, state.total_steps) == 0


@register_method("soft_movement")
@dataclass(frozen=True)
class SoftMovement(Aimed):
    """Soft movement pruning: weights whose learned score stays above a threshold are used.

    Source: Sanh, Wolf and Rush 2020, arXiv:2005.07683, section 4 (soft movement pruning).  The mask is ``sigmoid(S) >
    tau``, with scores learned as those of `Movement` and a penalty ``lam R(S)`` on them, R the mean over layers of a
    layer's mean ``sigmoid(S)``.  The threshold rises from 0 to `tau` along `schedule`, and the strength of the penalty
    with it.  What sparsity comes of it depends on `lam`; nothing needs to be added to the loss.

    With a `sparsity`, which is an addition of this library, the masks follow `schedule` at least and never pass the
    sparsity: see `Aimed`.

    Attributes:
        lam: strength of the penalty.  It is divided by the number of weights, so the paper's BERT takes hundreds.
        tau: the threshold, between 0 and 1; 0.1 as in the paper's experiments.
        score_lr: learning rate of the scores, 1e-2 as in the paper's experiments, scaled as the loop's schedule scales
            that of the weights; None for the weights' own.

    Raises:
        UsageError: a number is out of range, or the pattern is not unstructured.

    >>> SoftMovement(lam=400.0).final_sparsity is None
    True
    """

    lam: float = 1.0
    tau: float = 0.1
    score_lr: float | None = 1e-2
    schedule: Schedule = field(default_factory=lambda: Cubic(begin=0.1, end=0.8))

    usage: ClassVar[Usage] = Usage.CLIMB

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need_unstructured()
        _check_rate("SoftMovement", self.score_lr)
        if not 0 < self.tau < 1:
            raise UsageError(f"SoftMovement got tau={self.tau!r}; accepted is a number between 0 and 1.")
        if not (math.isfinite(self.lam) and self.lam >= 0):
            raise UsageError(f"SoftMovement got lam={self.lam!r}; accepted is a finite number >= 0.")

    def check(self, state: SparseState) -> None:
        super().check(state)
        check_trained("SoftMovement", "scores", state)

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        _start(state)

    def used(self, state: SparseState, layer: SparseLayer) -> Tensor | None:
        return layer.mask if self.closed(state) else None

    def before_step(self, state: SparseState) -> None:
        if not self.closed(state):
            pull = 0.0 if self.arrived(state) else self.lam * self.schedule.ramp(state.progress)
            _learn(state, self.score_lr, pull)

    def kept(self, state: SparseState, layer: SparseLayer) -> Tensor:
        return torch.sigmoid(layer.buffers["score"]) > self.tau * self.schedule.ramp(state.progress)

    def worth(self, state: SparseState, layer: SparseLayer) -> Tensor:
        return layer.buffers["score"]

    def keep(self, state: SparseState, layer: SparseLayer, wanted: Tensor) -> None:
        threshold = self.tau * self.schedule.ramp(state.progress)
        lowest = torch.logit(torch.tensor(threshold, dtype=torch.float64), eps=1e-9).item() + 1e-3
        layer.buffers["score"].clamp_(min=torch.where(wanted, lowest, -math.inf).to(layer.buffers["score"]))
