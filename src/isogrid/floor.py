"""The accuracy floor: what must hold, in the user's own words."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from isogrid.errors import FloorError
from isogrid.metrics import Metric

_ACCEPTED = "accepted are points ('0.5pt'), a share of the baseline ('1%'), or a number in units of the metric ('0.02')"


@dataclass(frozen=True)
class Floor:
    """What a sparse model may lose, or the least it must reach.

    Attributes:
        text: the user's words.
        kind: ``"points"`` (hundredths, for metrics that are percentages), ``"relative"`` (share of the dense baseline),
            ``"units"`` (of the metric) or ``"absolute"`` (the metric itself).
        amount: the number that belongs to it.

    >>> from isogrid.metrics import ACCURACY
    >>> round(max_drop("0.5pt").limit(ACCURACY, baseline=0.90), 6)
    0.895
    """

    text: str
    kind: str
    amount: float

    def check(self, metric: Metric) -> None:
        """Refuse what no model of that metric could hold or break, before one is trained.

        Raises:
            FloorError: points of a metric that is no percentage, or an amount beyond 100 % of one that is.
        """
        self.limit_from(metric, 1.0)
        if metric.percent and self.kind in ("absolute", "units") and self.amount > 1:
            written = f"'{self.amount:g}%'" if self.kind == "absolute" else f"'{self.amount:g}pt'"
            raise FloorError(
                f"The floor {self.text} is beyond 100 %, as {metric.name} is a share; accepted is {written}, or a "
                "number up to 1."
            )

    def limit(self, metric: Metric, baseline: float) -> float:
        """The metric value that must be reached, given the dense model's.

        Raises:
            FloorError: the baseline itself does not reach it, it lets everything go, or points are asked of a metric
                that is no percentage.
        """
        limit = self.limit_from(metric, baseline)
        if not metric.at_least(baseline, limit):
            side = "below" if metric.higher_is_better else "above"
            raise FloorError(
                f"The floor {self.text} is out of reach: the dense baseline's {metric.name} is {baseline:.4g}, {side} "
                "it; name a floor that the baseline holds."
            )
        if self.kind != "absolute" and metric.percent and metric.higher_is_better and limit <= 0:
            raise FloorError(
                f"The floor {self.text} lets everything go, as the dense baseline's {metric.name} is {baseline:.4g}; "
                f"{_ACCEPTED}."
            )
        return limit

    def limit_from(self, metric: Metric, baseline: float) -> float:
        """As `limit`, also where the baseline does not reach it (on another split it may not).

        Raises:
            FloorError: points are asked of a metric that is no percentage.
        """
        if self.kind == "absolute":
            return self.amount
        if self.kind == "points" and not metric.percent:
            raise FloorError(
                f"The floor {self.text!r} is in points, and {metric.name} is no percentage; name it in units or %."
            )
        allowed = {"points": self.amount / 100, "relative": abs(baseline) * self.amount, "units": self.amount}[
            self.kind
        ]
        return baseline - allowed if metric.higher_is_better else baseline + allowed


def max_drop(text: str | float) -> Floor:
    """A floor as the most that may be lost against the dense baseline: ``"0.5pt"``, ``"1%"``, or a number in units.

    Raises:
        FloorError: anything else, or an amount that is negative or not finite.

    >>> max_drop("1%").kind
    'relative'
    """
    words = str(text).strip()
    match = re.fullmatch(r"([0-9.eE+-]+)\s*(pt|pts|points?|pp|%)?", words)
    amount = _number(match.group(1)) if match else None
    if match is None or amount is None or amount < 0:
        raise FloorError(f"The floor {words!r} is not understood; {_ACCEPTED}, each 0 or more.")
    unit = match.group(2)
    if unit == "%":
        if amount >= 100:
            raise FloorError(f"The floor {words!r} lets everything go; accepted is a share below 100 %.")
        return Floor(words, "relative", amount / 100)
    return Floor(words, "units" if unit is None else "points", amount)


def absolute(text: str | float) -> Floor:
    """A floor as the metric itself: ``0.95`` or ``"95%"``.

    Raises:
        FloorError: not a finite number.

    >>> absolute("95%").amount
    0.95
    """
    words = str(text).strip()
    match = re.fullmatch(r"([0-9.eE+-]+)\s*(%)?", words)
    amount = _number(match.group(1)) if match else None
    if match is None or amount is None:
        raise FloorError(
            f"The floor {words!r} is not understood; accepted is the metric to reach, such as '0.95' or '95%'."
        )
    return Floor(words, "absolute", amount / 100 if match.group(2) else amount)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
