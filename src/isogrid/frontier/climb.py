"""The search: a dense baseline, a climb through rising sparsities, both levers measured at every rung."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from isogrid.floor import Floor
from isogrid.formats.model import model_bytes
from isogrid.frontier.ensemble import Ensemble
from isogrid.frontier.events import Listener
from isogrid.frontier.points import PRECISIONS, FrontierPoint
from isogrid.frontier.training import Phase, Trained, Trainer
from isogrid.masks import count_zeros, find_targets
from isogrid.metrics import value_of
from isogrid.precision.quantize import quantize
from isogrid.runtime.estimate import Latency
from isogrid.sparsify import Method, Usage, prune


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

    method: Method
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

    def __init__(self, trainer: Trainer, plan: SearchPlan, listener: Listener) -> None:
        self._trainer, self._plan, self._listener = trainer, plan, listener
        self._recipe, self._task = trainer.recipe, trainer.task
        self._latency = Latency(trainer.new_model(), trainer.task.example())

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
                cycles.append(self._trainer.train(phase, start=cycles[-1]))
        metric = self._task.metric
        best = max(cycles, key=lambda one: one.metric if metric.higher_is_better else -one.metric)
        found = Found(best, self._plan.floor.limit(metric, best.metric), best.metric)
        found.trained["dense"] = best
        self._start = first
        self._teacher = self._ensemble(cycles)
        self._measure(found, "dense", 0, best)
        return found

    def _ensemble(self, cycles: Sequence[Trained]) -> Ensemble:
        """The best dense cycles as one teacher: matched training made them anyway, and together they know more."""
        metric = self._task.metric
        ranked = sorted(cycles, key=lambda one: -one.metric if metric.higher_is_better else one.metric)
        return Ensemble([self._trainer.model_of(one) for one in ranked[: self._recipe.teachers]])

    @property
    def _matches_dense(self) -> bool:
        return self._plan.match_dense and not self._task.pretrained and self._plan.method.usage is Usage.CLIMB

    def _most_epochs(self) -> int:
        """Passes over the training data if no rung breaks the floor."""
        recipe, usage = self._recipe, self._plan.method.usage
        rungs = len(recipe.ladder) + self._plan.bisections
        each = {Usage.CLIMB: recipe.rung_epochs, Usage.RESTART: recipe.epochs, Usage.AFTER: 0}[usage]
        dense = (0 if self._task.pretrained else recipe.epochs) + (
            len(recipe.ladder) * each if self._matches_dense else 0
        )
        return dense + rungs * each

    def _first_dense(self) -> Trained:
        if self._task.pretrained:
            model = self._trainer.new_model()
            value = value_of(self._trainer.measure(model, "validation"))
            return Trained({k: v.detach().clone() for k, v in model.state_dict().items()}, None, value, 0, 0.0)
        phase = Phase("dense-00", "dense", self._recipe.epochs, self._recipe.lr, until=self._plan.until)
        return self._trainer.train(phase)

    @property
    def _rung_lr(self) -> float:
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
        method = self._plan.method.at(sparsity).with_floor(
            found.limit, higher_is_better=self._task.metric.higher_is_better
        )
        name = f"rung-{rung:02d}"
        title = f"rung {rung}, {100 * sparsity:.4g} %"
        if method.usage is Usage.AFTER:
            trained = self._prune_once(found, method)
        elif method.usage is Usage.RESTART:
            phase = Phase(name, title, self._recipe.epochs, self._recipe.lr, method)
            trained = self._trainer.train(phase, teacher=self._teacher)
        else:
            phase = Phase(name, title, self._recipe.rung_epochs, self._rung_lr, method)
            trained = self._trainer.train(phase, start=below, teacher=self._teacher)
        found.trained[name] = trained
        self._measure(found, name, rung, trained)
        return trained

    def _prune_once(self, found: Found, method: Method) -> Trained:
        model = self._trainer.model_of(found.dense)
        task = self._task
        report = prune(
            model, method, data=self._trainer.calibration(method), forward=task.forward, loss=task.loss,
            targets=task.targets, ignore=task.ignore, seed=self._trainer.seed,
        )  # fmt: skip
        value = value_of(self._trainer.measure(model, "validation"))
        return Trained(dict(model.state_dict()), report.masks, value, found.dense.steps, found.dense.flops)

    # -- both levers -------------------------------------------------------------------------------------------------

    def at_precision(self, trained: Trained, precision: str) -> nn.Module:
        """A phase's model with its weights rounded to `precision`."""
        model = self._trainer.model_of(trained)
        return round_model(model, precision, self._task.targets, self._task.ignore)

    def _measure(self, found: Found, phase: str, rung: int, trained: Trained) -> None:
        task = self._task
        best: float | None = None
        any_holds = False
        for precision in PRECISIONS:
            model = self.at_precision(trained, precision)
            value = value_of(self._trainer.measure(model, "validation"))
            targets = find_targets(model, task.targets, task.ignore)
            counts = count_zeros(model, targets)
            holds = task.metric.at_least(value, found.limit)
            if rung == 0 and precision == "fp32":
                holds = True
            size = model_bytes(model, precision, targets=task.targets, ignore=task.ignore)
            found.points.append(
                FrontierPoint(
                    phase,
                    rung,
                    precision,
                    value,
                    counts["sparsity"],
                    counts["sparsity_of_model"],
                    counts["nonzeros"],
                    size,
                    holds,
                    self._latency(model),
                )
            )
            any_holds = any_holds or holds
            best = value if best is None or task.metric.at_least(value, best) else best
        assert best is not None
        if rung > 0:
            self._listener.rung_measured(found.points[-3].sparsity, best, any_holds)


def round_model(
    model: nn.Module, precision: str, targets: Sequence[str] | None, ignore: Sequence[str] | None
) -> nn.Module:
    """A copy of `model` in eval mode whose weights are what a file of that precision holds."""
    rounded = copy.deepcopy(model).eval()
    if precision != "fp32":
        quantize(rounded, weights=precision, targets=targets, ignore=ignore)  # type: ignore[arg-type]
    return rounded
