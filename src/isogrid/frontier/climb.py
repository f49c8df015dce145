"""The search: a dense baseline, a climb through rising sparsities, both levers measured at every rung."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from isogrid.errors import UndefinedMetricError, UnsupportedError
from isogrid.floor import Floor
from isogrid.frontier.events import Listener
from isogrid.frontier.phases import Phase, Trained
from isogrid.frontier.points import PRECISIONS, FrontierPoint
from isogrid.frontier.workshop import Workshop
from isogrid.metrics import value_of


class Climbing(Protocol):
    """What the search asks of a method, in whatever framework."""

    @property
    def usage(self) -> Any:
        """How a sparsity is reached; its ``value`` is ``"climb"``, ``"restart"`` or ``"after"`` (the training)."""

    def at(self, sparsity: float) -> Self:
        """The same method aimed at another sparsity."""

    def with_floor(self, limit: float, *, higher_is_better: bool) -> Self:
        """The same method told which metric must hold."""


@dataclass(frozen=True)
class SearchPlan:
    """How far and how finely the search goes.

    Attributes:
        method: what makes zeros; its own sparsity is replaced by each rung's.
        floor: what must hold.
        match_dense: train the dense model for as many steps as the longest climb, in the same cycles, and take the best
            of its cycles (on the validation split) as the baseline.
        patience: rungs in a row that may break the floor before the climb ends: on a small validation split one may
            break it by chance.
        bisections: how often the gap between the sparsest rung that holds and the next that does not is halved.
        until: stop dense training at this validation metric.
    """

    method: Climbing
    floor: Floor
    match_dense: bool = True
    patience: int = 3
    bisections: int = 2
    until: float | None = None


@dataclass
class Found:
    """What the search has measured so far."""

    dense: Trained
    limit: float
    baseline: float
    points: list[FrontierPoint] = field(default_factory=list)
    trained: dict[str, Trained] = field(default_factory=dict)


class Search:
    """One search.  Repeating it in the same run directory goes through the same decisions, from checkpoints."""

    def __init__(self, workshop: Workshop, plan: SearchPlan, listener: Listener) -> None:
        self._workshop, self._plan, self._listener = workshop, plan, listener
        self._recipe, self._metric = workshop.recipe, workshop.metric
        self._usage: str = plan.method.usage.value

    # -- the dense baseline ------------------------------------------------------------------------------------------

    def baseline(self) -> Found:
        """Train the dense model, or take the pretrained one, and fix the limit that the floor comes to.

        Raises:
            FloorError: the baseline does not hold the floor.
        """
        self._listener.planned(self._most_epochs())
        first = self._first_dense()
        cycles = [first]
        if self._matches_dense:
            for cycle in range(1, len(self._recipe.ladder) + 1):
                phase = Phase(f"dense-{cycle:02d}", f"dense, cycle {cycle}", self._recipe.rung_epochs, self._rung_lr)
                cycles.append(self._workshop.train(phase, start=cycles[-1]))
        metric = self._metric
        best = max(cycles, key=lambda one: one.metric if metric.higher_is_better else -one.metric)
        found = Found(best, self._plan.floor.limit(metric, best.metric), best.metric)
        found.trained["dense"] = best
        self._start = first
        self._workshop.teach(self._best(cycles))
        self._measure(found, "dense", 0, best)
        return found

    def _best(self, cycles: Sequence[Trained]) -> list[Trained]:
        """The best dense cycles, as teachers: matched training made them anyway, and together they know more."""
        metric = self._metric
        ranked = sorted(cycles, key=lambda one: -one.metric if metric.higher_is_better else one.metric)
        return ranked[: self._recipe.teachers]

    @property
    def _matches_dense(self) -> bool:
        return self._plan.match_dense and not self._workshop.pretrained and self._usage == "climb"

    def _most_epochs(self) -> int:
        """Passes over the training data if no rung breaks the floor."""
        recipe = self._recipe
        rungs = len(recipe.ladder) + self._plan.bisections
        each = {"climb": recipe.rung_epochs, "restart": recipe.epochs, "after": 0}[self._usage]
        dense = (0 if self._workshop.pretrained else recipe.epochs) + (
            len(recipe.ladder) * each if self._matches_dense else 0
        )
        return dense + rungs * each

    def _first_dense(self) -> Trained:
        if self._workshop.pretrained:
            return self._workshop.given()
        phase = Phase("dense-00", "dense", self._recipe.epochs, self._recipe.lr, until=self._plan.until)
        return self._workshop.train(phase)

    @property
    def _rung_lr(self) -> float | None:
        return self._recipe.lr if self._recipe.rung_lr is None else self._recipe.rung_lr

    # -- the climb ---------------------------------------------------------------------------------------------------

    def climb(self, found: Found, measured: Callable[[], None]) -> None:
        """Go up the ladder until the floor is broken `patience` times in a row, then halve the gap.

        `measured` is called after each rung, when its points are in `found`.
        """
        below = self._start
        broken = 0
        holding: tuple[float, Trained] = (0.0, self._start)
        first_break: float | None = None
        rung = 0
        for sparsity in self._recipe.ladder:
            rung += 1
            trained = self._rung(found, rung, sparsity, below)
            measured()
            if self._holds(found, rung):
                broken, first_break, holding = 0, None, (sparsity, trained)
            else:
                broken += 1
                first_break = sparsity if first_break is None else first_break
                if broken >= self._plan.patience:
                    break
            below = trained
        for _ in range(self._plan.bisections if first_break is not None else 0):
            assert first_break is not None
            rung += 1
            between = 1 - math.sqrt((1 - holding[0]) * (1 - first_break))
            trained = self._rung(found, rung, between, holding[1])
            measured()
            if self._holds(found, rung):
                holding = (between, trained)
            else:
                first_break = between

    def _holds(self, found: Found, rung: int) -> bool:
        return any(point.holds for point in found.points if point.rung == rung)

    def _rung(self, found: Found, rung: int, sparsity: float, below: Trained) -> Trained:
        method = self._plan.method.at(sparsity).with_floor(found.limit, higher_is_better=self._metric.higher_is_better)
        name = f"rung-{rung:02d}"
        title = f"rung {rung}, {100 * sparsity:.4g} %"
        if self._usage == "after":
            trained = self._workshop.prune(found.dense, method)
        elif self._usage == "restart":
            phase = Phase(name, title, self._recipe.epochs, self._recipe.lr, method)
            trained = self._workshop.train(phase, taught=True)
        else:
            phase = Phase(name, title, self._recipe.rung_epochs, self._rung_lr, method)
            trained = self._workshop.train(phase, start=below, taught=True)
        found.trained[name] = trained
        self._measure(found, name, rung, trained)
        return trained

    def _measure(self, found: Found, phase: str, rung: int, trained: Trained) -> None:
        """Both levers together: the rung's model at each precision.

        No point comes of a precision that cannot hold the model's weights, nor of a sparse model whose metric is
        undefined (a correlation of one that always answers the same): such a rung breaks the floor.
        """
        values: list[float] = []
        sparsity = 0.0
        for precision in PRECISIONS:
            try:
                model = self._workshop.at_precision(trained, precision)
            except UnsupportedError:
                if precision == "fp32":
                    raise
                continue
            costs = dataclasses.asdict(self._workshop.weigh(model, precision))
            if precision == "fp32":
                sparsity = float(costs["sparsity"])
            try:
                value = value_of(self._workshop.measure(model, "validation"))
            except UndefinedMetricError:
                if rung == 0 and precision == "fp32":
                    raise
                continue
            holds = self._metric.at_least(value, found.limit)
            if rung == 0 and precision == "fp32":
                holds = True
            values.append(value)
            found.points.append(FrontierPoint(phase, rung, precision, value, holds=holds, **costs))
        if rung > 0:
            best = max if self._metric.higher_is_better else min
            self._listener.rung_measured(sparsity, best(values, default=math.nan), self._holds(found, rung))
