"""The sparse trigger on arrays: what it can be told, and which weights it zeroes and revives at a check."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.checks import check_fraction
from isogrid.errors import PatternError, TrainingError, UsageError
from isogrid.patterns import Unstructured, active_count
from isogrid.rules.aim import Aim
from isogrid.rules.state import State
from isogrid.schedules import Cubic, Schedule
from isogrid.selection import select
from isogrid.updates import check_interval, update_due


@dataclass(eq=False)
class Judged:
    """A layer as the trigger sees it at a check, in canonical view.

    Attributes:
        mask: True = active.
        average: the moving average of the gradient's size, float32; None where no gradient has been seen, and then
            the layer is not judged.
        patience: for how many checks on end the average has stayed small, int32; a check sets it anew.
    """

    mask: NDArray[np.bool_]
    average: NDArray[Any] | None
    patience: NDArray[np.int32]


@dataclass(frozen=True)
class TriggerRule(Aim):
    """The options of `isogrid.Trigger` and `isogrid.keras.Trigger`, which say what they mean, and what both do.

    >>> TriggerRule(sparsity=0.9).mode
    'paced'
    """

    threshold: float | None = None
    quantile: float | None = None
    patience: int = 2
    beta: float = 0.9
    revive: float | None = None
    schedule: Schedule = field(default_factory=lambda: Cubic(end=0.75))
    delta_t: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval("Trigger", self.delta_t)
        if self.threshold is not None and self.quantile is not None:
            raise UsageError(
                "Trigger got both a threshold and a quantile; accepted is one of them, or neither (paced)."
            )
        if self.threshold is not None and not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise UsageError(f"Trigger got threshold={self.threshold!r}; accepted is a finite number >= 0.")
        if self.quantile is not None:
            check_fraction("Trigger", "quantile", self.quantile)
        check_fraction("Trigger", "beta", self.beta)
        if self.patience < 1:
            raise UsageError(f"Trigger got patience={self.patience!r}; accepted is a whole number >= 1.")
        if self.revive is not None and not self.revive > 0:
            raise UsageError(f"Trigger got revive={self.revive!r}; accepted is a number > 0, or None.")
        if self.revive is not None and self.target_pattern != Unstructured():
            raise UsageError(
                f"Trigger got revive={self.revive!r} with pattern {self.target_pattern}; accepted is unstructured, "
                "for single weights come back."
            )

    @property
    def mode(self) -> str:
        """``"absolute"``, ``"quantile"`` or ``"paced"``."""
        if self.threshold is not None:
            return "absolute"
        return "paced" if self.quantile is None else "quantile"

    def check_partitions(self, state: State) -> None:
        """Refuse a pattern that counts in parts of a layer.

        Raises:
            PatternError: it does.
        """
        for layer in state.layers:
            if self.target_pattern.grid(layer.shape).partitions > 1:
                raise PatternError(
                    f"Trigger cannot hold pattern {self.target_pattern}, which wants equally many zeros in every part "
                    "of a layer, while weights settle where they do; accepted are unstructured, block, row and channel."
                )

    def due(self, state: State, step: int) -> bool:
        """Whether a check follows that step."""
        return update_due(step, state.total_steps, self.delta_t, self.schedule)

    def judge(
        self, layers: Mapping[str, Judged], progress: float, goal: tuple[float, float]
    ) -> dict[str, NDArray[np.bool_]] | None:
        """One check: count patience on, revive, and zero what has settled, smallest average first.

        Args:
            layers: all of them, by name and in order; `Judged.patience` is set anew.
            progress: the share of the training that is done.
            goal: the sparsity that the ramp starts from, and the cap.

        Returns:
            The new masks by name, or None where nothing moves.

        >>> ones = np.ones((1, 4), bool)
        >>> layer = Judged(ones, np.float32([[0.4, 0.1, 0.3, 0.2]]), np.zeros((1, 4), np.int32))
        >>> rule = TriggerRule(sparsity=0.5, threshold=0.25, patience=1)
        >>> rule.judge({"w": layer}, 0.5, (0.0, 0.5))["w"]
        array([[ True, False,  True, False]])
        """
        masks = {name: layer.mask for name, layer in layers.items()}
        revives = self.revive is not None and progress < self.schedule.end
        if revives:
            masks = {name: self._revived(layer) for name, layer in layers.items()}
        allowed = self.schedule.value(progress, *goal) if self.mode == "paced" else goal[1]
        settled = self._settled(layers, masks, allowed)
        if self.mode == "paced" and progress >= self.schedule.end:
            settled = masks
        zeroed = self._zeroed(layers, masks, settled, allowed, goal[1])
        return zeroed if zeroed is not None else masks if revives else None

    def _settled(
        self, layers: Mapping[str, Judged], masks: Mapping[str, NDArray[np.bool_]], allowed: float
    ) -> dict[str, NDArray[np.bool_]]:
        """Where the average has stayed below the bound for long enough."""
        bound = self._bound(layers, masks, allowed)
        settled = {}
        for name, layer in layers.items():
            if layer.average is None:
                settled[name] = np.zeros_like(layer.mask)
                continue
            small = (layer.average <= bound) & masks[name]
            layer.patience = ((layer.patience + 1) * small).astype(np.int32)
            settled[name] = self._whole_groups(masks[name], layer.patience >= self.patience)
        return settled

    def _bound(self, layers: Mapping[str, Judged], masks: Mapping[str, NDArray[np.bool_]], allowed: float) -> float:
        if self.threshold is not None:
            return self.threshold
        seen = [layer.average[masks[name]] for name, layer in layers.items() if layer.average is not None]
        values = np.concatenate([np.empty(0, np.float32), *seen])
        if values.size == 0:
            return 0.0
        quantile = self.quantile
        if quantile is None:
            size, active = _counts(masks)
            quantile = min(1.0, max(0.0, 2 * (active - active_count(size, allowed)) / values.size))
        return float(np.quantile(values, quantile))

    def _zeroed(
        self,
        layers: Mapping[str, Judged],
        masks: Mapping[str, NDArray[np.bool_]],
        settled: Mapping[str, NDArray[np.bool_]],
        allowed: float,
        cap: float,
    ) -> dict[str, NDArray[np.bool_]] | None:
        """Masks without the settled weights of smallest average, as far as the cap allows; None if none may go."""
        size, active = _counts(masks)
        candidates = sum(int(np.count_nonzero(mask)) for mask in settled.values())
        sparsity = min(allowed, 1 - (active - candidates) / size)
        if candidates == 0 or sparsity <= 1 - active / size:
            return None
        averages = [layer.average for layer in layers.values() if layer.average is not None and layer.average.size]
        highest = max((float(average.max()) for average in averages), default=0.0)
        scores = {}
        for name, layer in layers.items():
            unjudged = np.full(layer.mask.shape, 1 + highest, dtype=np.float32)
            average = unjudged if layer.average is None else layer.average
            scores[name] = np.where(masks[name] & ~settled[name], np.float32(2 + 2 * highest), average)
        # A cap is never passed, and whole groups may not fill it: then they are asked for less.
        most = active_count(size, cap)
        while sparsity > 1 - active / size:
            chosen = select(masks, scores, sparsity, self.target_pattern, self.target_allocation)
            # An allocation may want more of a layer than has settled there.
            kept = {name: chosen[name] | (mask & ~settled[name]) for name, mask in masks.items()}
            excess = most - _counts(kept)[1]
            if excess <= 0:
                return kept
            sparsity -= excess / size
        return None

    def _whole_groups(self, mask: NDArray[np.bool_], settled: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where all active weights of a group of the pattern have settled."""
        whole = np.asarray(self.target_pattern.fold(settled | ~mask).all(axis=2))
        return self.target_pattern.spread(whole, mask.shape) & settled

    def _revived(self, layer: Judged) -> NDArray[np.bool_]:
        """The mask with those weights active again whose average is large enough; their patience starts anew."""
        active = None if layer.average is None else layer.average[layer.mask]
        if self.revive is None or layer.average is None or active is None or active.size == 0:
            return layer.mask
        typical = float(active.astype(np.float64).mean())
        if typical <= 0:
            return layer.mask
        back = ~layer.mask & (layer.average > self.revive * typical)
        layer.patience = np.where(back, np.int32(0), layer.patience)
        return layer.mask | back


def _counts(masks: Mapping[str, NDArray[np.bool_]]) -> tuple[int, int]:
    """How many weights there are, and how many of them are active."""
    return sum(mask.size for mask in masks.values()), sum(int(np.count_nonzero(mask)) for mask in masks.values())


def not_finite(name: str, when: str) -> TrainingError:
    """What a trigger says of a gradient that it cannot judge."""
    return TrainingError(
        f"The gradient of {name} {when}; the trigger can only judge finite gradients, so lower the learning rate or "
        "clip them."
    )
