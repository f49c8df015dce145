"""Iterative magnitude pruning with rewinding: how lottery tickets are found."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from isogrid.errors import UsageError
from isogrid.rules.method import Usage
from isogrid.scores import Magnitude
from isogrid.sparsify.method import register_method
from isogrid.sparsify.restart import restart
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.selection import score_layer
from isogrid.sparsify.state import SparseState

_REWINDS = ("weights", "initial", "learning_rate")


@register_method("imp")
@dataclass(frozen=True)
class IMP(Selecting):
    """Iterative magnitude pruning: train, prune the smallest weights, rewind, and again, `rounds` times.

    Source: Frankle and Carbin 2019, arXiv:1803.03635 (rewinding to the initial weights); Frankle et al. 2020,
    arXiv:1912.05671 (to the weights of an early step); Renda et al. 2020, arXiv:2003.02389 (of the learning rate
    alone).

    The training is cut into ``rounds + 1`` cycles.  The r-th pruning, after the r-th cycle, leaves the density

        ``d_r = d_0^(1 - r / rounds) * d_f^(r / rounds)``

    of the targets, where d_f is 1 - `sparsity` and d_0 is 1 or that of adopted masks, by the magnitudes of all layers
    together.  Then the weights go back to what they were at the rewinding point of the first cycle, zero where the mask
    says so, and with them all other parameters and buffers of the model (biases, batch-norm statistics); the optimiser
    starts anew; and the learning rate must go back too: `Sparsifier.lr_step` tells where the loop's schedule, which is
    one of ``total_steps``, should stand.  The first cycle goes through the whole of that schedule, each later one from
    the rewinding point on.  The last cycle trains at the final sparsity.

    The papers give every cycle a full training and prune 20 % of what is left at a time: ask for
    ``rounds = log(1 - sparsity) / log(0.8)``, rounded up, and for ``rounds + 1`` times the steps.

    Attributes:
        rounds: how often weights are pruned.
        rewind: ``"weights"`` takes them back to the rewinding point, ``"initial"`` to the start of the training, and
            ``"learning_rate"`` keeps them and takes only the learning rate back.
        rewind_to: the rewinding point, as a fraction of the first cycle, from 0 up to, not including, 1;
            ``"initial"`` ignores it.

    Raises:
        UsageError: an option is out of range.

    >>> IMP(sparsity=0.9, rounds=2, rewind="initial").cycles(300)
    [0, 100, 200]
    """

    rounds: int = 4
    rewind: str = "weights"
    rewind_to: float = 0.05

    usage: ClassVar[Usage] = Usage.RESTART

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise UsageError(f"IMP got rounds={self.rounds!r}; accepted is a whole number >= 1.")
        if self.rewind not in _REWINDS:
            raise UsageError(f"IMP got rewind={self.rewind!r}; accepted are {', '.join(map(repr, _REWINDS))}.")
        if not 0 <= self.rewind_to < 1:
            raise UsageError(
                f"IMP got rewind_to={self.rewind_to!r}; accepted is a number from 0 up to, not including, 1."
            )

    @property
    def _point(self) -> float:
        return 0.0 if self.rewind == "initial" else self.rewind_to

    def cycles(self, total_steps: int) -> list[int]:
        """The step at which each cycle starts; where one ends by pruning, the next starts."""
        first = total_steps / (1 + self.rounds * (1 - self._point))
        later = (total_steps - first) / self.rounds
        return [0, *(max(1, round(first + i * later)) for i in range(self.rounds))]

    def lr_step(self, state: SparseState) -> int:
        starts = [*self.cycles(state.total_steps), state.total_steps]
        cycle = min(bisect.bisect_right(starts, state.step) - 1, self.rounds)
        done = (state.step - starts[cycle]) / max(1, starts[cycle + 1] - starts[cycle])
        begin = self._point if cycle else 0.0
        return int((begin + (1 - begin) * done) * state.total_steps + 1e-9)

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        state.numbers["round"] = 0
        self._remember(state)

    def after_step(self, state: SparseState) -> None:
        self._remember(state)
        due = bisect.bisect_right(self.cycles(state.total_steps), state.step) - 1
        if due > state.numbers["round"]:
            state.numbers["round"] = due
            self._prune(state)
            self._rewind(state)

    def telemetry(self, state: SparseState) -> dict[str, float]:
        return {**super().telemetry(state), "round": float(state.numbers["round"])}

    def _remember(self, state: SparseState) -> None:
        """Save the model where the step is that of the rewinding point."""
        point = int(self._point * self.cycles(state.total_steps)[1])
        if self.rewind != "learning_rate" and state.step == point:
            state.tensors = {name: tensor.clone() for name, tensor in _everything(state)}

    def _prune(self, state: SparseState) -> None:
        state.check_finite()
        done = float(state.numbers["round"]) / self.rounds
        first = 1 - float(state.numbers["initial_sparsity"])
        last = min(first, 1 - self.target_sparsity)
        sparsity = 1 - first ** (1 - done) * last**done if done < 1 else max(1 - first, self.target_sparsity)
        magnitudes = {layer.name: score_layer(state, layer, Magnitude()) for layer in state.layers}
        self.keep_best(state, magnitudes, sparsity)

    def _rewind(self, state: SparseState) -> None:
        if state.tensors:
            _restore(state)
        if state.optimizer is not None:
            restart(state.optimizer)
        state.hold_zeros(everywhere=True)
        if state.numbers["round"] == self.rounds:
            state.tensors = {}


def _restore(state: SparseState) -> None:
    """Give the model what is remembered of it.  A buffer that has appeared since then stays as it is."""
    assert state.model is not None
    for name, tensor in _everything(state):
        kept = state.tensors.get(name)
        if kept is None:
            continue
        if kept.shape == tensor.shape and 0 not in tensor.stride():
            tensor.copy_(kept)
        else:  # a buffer that has grown, as caches do, or one that repeats its numbers and cannot be written to
            owner, _, own_name = name.rpartition(".")
            setattr(state.model.get_submodule(owner), own_name, kept.clone())


def _everything(state: SparseState) -> Iterator[tuple[str, Tensor]]:
    """The data of all parameters and buffers of the model, by name."""
    assert state.model is not None
    for name, tensor in (*state.model.named_parameters(), *state.model.named_buffers()):
        yield name, tensor.detach()
