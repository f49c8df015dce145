"""The frontier: measured points of both levers together, and the choice among them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from isogrid.errors import UsageError
from isogrid.formats.numbers import Values
from isogrid.metrics import Metric

Minimize = Literal["bytes", "nonzeros", "latency"]
OBJECTIVES: tuple[Minimize, ...] = ("bytes", "nonzeros", "latency")
PRECISIONS: tuple[Values, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class FrontierPoint:
    """A model of the climb at one precision, measured on the validation split.

    ``phase`` names its checkpoint, ``rung`` counts from 0, the dense model.  ``bytes`` are those of the smallest file
    that holds it, ``sparsity`` and ``nonzeros`` real zeros after rounding.  ``latency`` is what the cost model expects
    a call's layers to take, in milliseconds (`isogrid.runtime.estimate`): the same in every run, as no clock would be;
    None where there is no estimate.
    """

    phase: str
    rung: int
    precision: Values
    metric: float
    sparsity: float
    sparsity_of_model: float
    nonzeros: int
    bytes: int
    holds: bool
    latency: float | None = 0.0

    def cost(self, minimize: Minimize) -> float:
        """What is to be made small."""
        return float(getattr(self, minimize))


def check_minimize(text: str) -> Minimize:
    """The objective of that name.

    Raises:
        UsageError: an unknown one.
    """
    for objective in OBJECTIVES:
        if text == objective:
            return objective
    raise UsageError(f"minimize got {text!r}; accepted are {', '.join(map(repr, OBJECTIVES))}.")


def balance_point(points: Sequence[FrontierPoint], minimize: Minimize, metric: Metric) -> FrontierPoint:
    """The cheapest point that holds the floor.

    Of equally cheap ones it is the one with the better metric, then the smaller, then the earlier.  The dense model at
    full precision holds the floor by definition, so there always is one.
    """
    holding = [point for point in points if point.holds]
    sign = -1 if metric.higher_is_better else 1
    return min(holding, key=lambda point: (point.cost(minimize), sign * point.metric, point.bytes))


def unbeaten(points: Sequence[FrontierPoint], minimize: Minimize, metric: Metric) -> list[bool]:
    """For each point whether no other is at least as good in metric and cost and better in one of them."""

    def beats(a: FrontierPoint, b: FrontierPoint) -> bool:
        no_worse = metric.at_least(a.metric, b.metric) and a.cost(minimize) <= b.cost(minimize)
        return no_worse and (a.metric != b.metric or a.cost(minimize) < b.cost(minimize))

    return [not any(beats(other, point) for other in points) for point in points]


def to_json(points: Sequence[FrontierPoint], chosen: FrontierPoint | None, on: Sequence[bool]) -> list[dict[str, Any]]:
    """The points as ``frontier.json`` holds them."""
    return [
        {**asdict(point), "chosen": point == chosen, "on_frontier": flag}
        for point, flag in zip(points, on, strict=True)
    ]


def to_csv(points: Sequence[FrontierPoint], chosen: FrontierPoint | None, on: Sequence[bool]) -> bytes:
    """The same as ``frontier.csv``."""
    text = io.StringIO()
    columns = [field.name for field in fields(FrontierPoint)]
    writer = csv.DictWriter(text, [*columns, "chosen", "on_frontier"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_json(points, chosen, on))
    return text.getvalue().encode()
