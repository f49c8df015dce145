"""Dynamic sparse training on arrays: the options of SET and RigL, and the exchange of weights."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from isogrid.checks import check_fraction
from isogrid.errors import TrainingError, UsageError
from isogrid.patterns import active_count
from isogrid.regrow import drop_and_grow
from isogrid.rules.aim import Aim, score_weights
from isogrid.rules.method import Usage
from isogrid.rules.state import Held, State
from isogrid.schedules import Cosine, OneShot, Schedule
from isogrid.scores import Magnitude, Random
from isogrid.selection import select
from isogrid.updates import check_interval, update_interval

_LEAST = 100
"""Steps between two updates in Evci et al. 2020, arXiv:1911.11134, section 4."""


@dataclass(frozen=True)
class Exchange(Aim):
    """What methods that drop weights of smallest magnitude and grow as many others share in every framework.

    What is exchanged, and when, is told in `isogrid.sparsify.dynamic.DropAndGrow`.

    Attributes:
        drop_fraction: share of a layer's active weights that is exchanged at an update, at first, in [0, 1].
        schedule: the way of that share to zero, in fractions of the training; at its end the masks are final.
        delta_t: steps between two updates; by default a hundredth of the training, but at least the 100 steps of the
            RigL paper, or a tenth of the training where that is less: what has just grown needs steps to grow on.
    """

    drop_fraction: float = 0.3
    schedule: Schedule = field(default_factory=lambda: OneShot(at=1.0))
    delta_t: int | None = None

    usage: ClassVar[Usage] = Usage.RESTART
    default_allocation: ClassVar[str] = "erk"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(type(self).__name__, "drop_fraction", self.drop_fraction)
        check_interval(type(self).__name__, self.delta_t)

    @abstractmethod
    def promise(self, state: Any, layer: Any) -> NDArray[Any] | None:
        """How much each weight of a layer promises, in canonical view; the highest of the inactive ones are grown.

        None leaves the layer as it is.
        """

    def start(self, state: State, layer: Held, grown: NDArray[np.bool_]) -> None:
        """Give the weights at `grown` their first values; they are zero, and so is what the optimiser knows of them."""

    def plant(self, state: State) -> None:
        """The masks to start from: the adopted ones, or random ones with the Erdos-Renyi-kernel shares."""
        state.numbers["exchanged"] = 0
        if self._adopted(state):
            return
        held = state.read_masks()
        # Active weights come first, and all places are open: shares may want more of a layer than it holds.
        scores = {name: score + held[name] for name, score in score_weights(state, Random()).items()}
        everywhere = {name: np.ones_like(mask) for name, mask in held.items()}
        sparsity = max(self.target_sparsity, state.mask_sparsity)
        state.write_masks(select(everywhere, scores, sparsity, self.target_pattern, self.target_allocation))

    def _adopted(self, state: State) -> bool:
        """Whether the masks are there already."""
        if state.active > active_count(state.size, self.target_sparsity):
            return False
        return all(self.target_pattern.conforms(layer.read_mask()) for layer in state.layers)

    def drop_fraction_at(self, progress: float) -> float:
        """The share of active weights that an update at that fraction of the training exchanges.

        >>> [round(RigLRule(sparsity=0.9).drop_fraction_at(t), 3) for t in (0.0, 0.25, 0.5, 0.75)]
        [0.3, 0.225, 0.075, 0.0]
        """
        return self.schedule.value(progress, self.drop_fraction, 0.0)

    def interval(self, total_steps: int) -> int:
        """Steps between two updates, in a training of that many.

        >>> [RigLRule(sparsity=0.9).interval(total) for total in (50, 500, 5000, 50000)]
        [5, 50, 100, 500]
        """
        if self.delta_t is not None:
            return self.delta_t
        return max(update_interval(None, total_steps), min(_LEAST, total_steps // 10))

    def due(self, state: State, step: int) -> bool:
        """Whether an exchange follows that step."""
        interval = self.interval(state.total_steps)
        # Weights that grew at the very last step would never be trained.
        return step % interval == 0 and step < self.schedule.end * state.total_steps

    def exchange(self, state: State) -> None:
        """Drop and grow in every layer that promises something, but for frozen ones: what they grew would not grow."""
        state.check_finite()
        fraction = self.drop_fraction_at(state.progress)
        masks: dict[str, NDArray[np.bool_]] = {}
        new: dict[str, NDArray[np.bool_]] = {}
        for layer in state.layers:
            promise = self.promise(state, layer) if layer.trained else None
            if promise is None:
                continue
            mask = layer.read_mask()
            worth = Magnitude()(layer.read_weight(), rng=state.rng("score", layer))
            dropped, grown = drop_and_grow(mask, worth, promise, fraction, self.target_pattern)
            masks[layer.name] = (mask & ~dropped) | grown
            new[layer.name] = grown
        state.write_masks(masks)
        for layer in state.layers:
            if layer.name in new:
                self.start(state, layer, new[layer.name])
        state.numbers["exchanged"] = sum(int(np.count_nonzero(grown)) for grown in new.values())

    def telemetry(self, state: State) -> dict[str, float]:
        exchanged = float(state.numbers["exchanged"])
        return {
            **super().telemetry(state),
            "drop_fraction": self.drop_fraction_at(state.progress),
            "dropped": exchanged,
            "grown": exchanged,
        }


@dataclass(frozen=True)
class SETRule(Exchange):
    """What `isogrid.SET` and `isogrid.keras.SET` share."""

    init: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in ("random", "zero"):
            raise UsageError(f"SET got init={self.init!r}; accepted are 'random' and 'zero'.")

    def plant(self, state: State) -> None:
        for layer in state.layers:
            state.numbers[f"initial_spread/{layer.key}"] = _spread(layer.read_weight()[layer.read_mask()])
        super().plant(state)

    def promise(self, state: State, layer: Held) -> NDArray[Any]:
        return np.asarray(state.rng("grow", layer).random(layer.shape))

    def start(self, state: State, layer: Held, grown: NDArray[np.bool_]) -> None:
        if self.init == "zero":
            return
        width = float(state.numbers[f"initial_spread/{layer.key}"])
        values = width * state.rng("start", layer).standard_normal(layer.shape, dtype=np.float32)
        layer.write_weight(grown, values)


@dataclass(frozen=True)
class RigLRule(Exchange):
    """What `isogrid.RigL` and `isogrid.keras.RigL` share."""

    schedule: Schedule = field(default_factory=lambda: Cosine(end=0.75))
    window: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise UsageError(f"RigL got window={self.window!r}; accepted is a whole number of steps >= 1.")


def not_finite(name: str, step: int) -> TrainingError:
    """What a method that grows by the gradient says of one that tells nothing."""
    return TrainingError(
        f"The gradient of {name} is not finite at step {step}; only finite gradients say where to grow, so lower the "
        "learning rate or clip them."
    )


def _spread(values: NDArray[Any]) -> float:
    """The root mean square of `values`, 0 where there is none."""
    return float(np.sqrt(np.square(values.astype(np.float64)).mean())) if values.size else 0.0
