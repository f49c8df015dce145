"""AC/DC: training alternates between compressed and decompressed phases."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch

from isogrid.checks import check_fraction
from isogrid.errors import UsageError
from isogrid.rules.method import Usage
from isogrid.scores import Magnitude
from isogrid.sparsify.method import register_method
from isogrid.sparsify.restart import restart
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import score_layer
from isogrid.sparsify.state import SparseState


@register_method("acdc")
@dataclass(frozen=True)
class ACDC(Selecting):
    """AC/DC: alternating compressed and decompressed training, from a dense warm-up to a compressed end.

    Source: Peste et al. 2021, arXiv:2106.12379, algorithm 1.  A compressed phase starts by keeping the weights of
    largest magnitude in the whole model, ``w <- T_k(w)``, and trains them with the mask held; a decompressed phase lets
    all weights train, those that were pruned from zero on, with an optimiser that starts anew, for its momentum is of
    other weights (the paper's code resets it too).

    The defaults are the paper's for ResNet-50 on ImageNet, in fractions of its 100 epochs: 10 epochs of warm-up, then
    phases of 5 epochs, first a compressed one, up to epoch 75, then 10 epochs decompressed and the last 15 compressed.
    The middle is cut into an odd number of equal phases, so that a compressed one comes first and last; their length
    is as near to `phase` as that allows.

    Adopted masks are held in the warm-up and go with the first decompression.

    Attributes:
        warmup: length of the dense start, as a fraction of the training like all that follow.
        phase: length of each of the alternating phases.
        last_decompressed: length of the last decompressed phase.
        last_compressed: length of the compressed phase that ends the training.
        reset_momentum: whether the optimiser starts anew at each decompression.

    Raises:
        UsageError: a length is out of range, or they add up to more than the training.

    >>> [(step, "compressed" if compressed else "dense") for step, compressed in ACDC(sparsity=0.9).phases(100)][-3:]
    [(70, 'compressed'), (75, 'dense'), (85, 'compressed')]
    """

    warmup: float = 0.1
    phase: float = 0.05
    last_decompressed: float = 0.1
    last_compressed: float = 0.15
    reset_momentum: bool = True

    usage: ClassVar[Usage] = Usage.RESTART

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("warmup", "phase", "last_decompressed", "last_compressed"):
            check_fraction("ACDC", name, getattr(self, name))
        if self.phase == 0:
            raise UsageError("ACDC got phase=0; accepted is a fraction of the training above 0.")
        if self._middle < 0:
            raise UsageError(
                f"ACDC got warmup={self.warmup}, last_decompressed={self.last_decompressed} and "
                f"last_compressed={self.last_compressed}, more than a whole training; accepted are fractions that add "
                "up to 1 at most."
            )

    @property
    def _middle(self) -> float:
        """The share of the training that is left for alternating phases."""
        return round(1 - self.warmup - self.last_decompressed - self.last_compressed, 12)

    def phases(self, total_steps: int) -> list[tuple[int, bool]]:
        """Where each phase starts, in steps, and whether it is a compressed one; the first is the warm-up.

        Phases that get no step of their own are left out, but for the last.
        """
        pairs = max(0, round((self._middle / self.phase - 1) / 2))
        alternating = 2 * pairs + 1 if self._middle > 0 else 0
        starts = [self.warmup + self._middle * i / alternating for i in range(alternating)]
        phases = [(0.0, False), *((start, i % 2 == 0) for i, start in enumerate(starts))]
        phases += [(1 - self.last_decompressed - self.last_compressed, False), (1 - self.last_compressed, True)]
        in_steps = [(round(start * total_steps), compressed) for start, compressed in phases]
        # Of several that start at once only the last has a step.
        by_step = dict(in_steps)
        changes = [next(iter(by_step.items()))]
        for (_, before), (step, compressed) in itertools.pairwise(by_step.items()):
            if compressed != before:
                changes.append((step, compressed))
        return changes

    def compressed(self, state: SparseState) -> bool:
        """Whether the masks hold zeros at this moment by this method's doing."""
        return [compressed for step, compressed in self.phases(state.total_steps) if step <= state.step][-1]

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        if self.compressed(state):
            self._compress(state)

    def after_step(self, state: SparseState) -> None:
        entered = dict(self.phases(state.total_steps)).get(state.step)
        if entered is True:
            self._compress(state)
        elif entered is False:
            self._decompress(state)

    def telemetry(self, state: SparseState) -> dict[str, float]:
        return {**super().telemetry(state), "compressed": float(self.compressed(state))}

    def _compress(self, state: SparseState) -> None:
        state.check_finite()
        magnitudes = {layer.name: score_layer(state, layer, Magnitude()) for layer in state.layers}
        self.keep_best(state, magnitudes, max(self.target_sparsity, state.mask_sparsity))

    def _decompress(self, state: SparseState) -> None:
        state.set_masks({layer.name: torch.ones_like(layer.mask) for layer in state.layers})
        if self.reset_momentum and state.optimizer is not None:
            restart(state.optimizer)
