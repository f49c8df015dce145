"""How the numbers and the verdict of a report are written, the same in the terminal, on the page and in figures.

Only plain characters are used, so that any terminal can print them; the page exchanges them for typographic ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from isogrid.metrics import Metric
from isogrid.report.data import ReportData, TrainingCost


def share(fraction: float) -> str:
    """Write a fraction from 0 to 1 in per cent, with more digits near 1 so that it never reads 100 % by rounding.

    >>> share(0.5), share(0.98765), share(0.99987), share(1.0)
    ('50.0 %', '98.8 %', '99.987 %', '100 %')
    """
    if fraction in (0, 1):
        return f"{100 * fraction:.0f} %"
    nearest = 100 * min(fraction, 1 - fraction)
    digits = 1 if fraction < 0.5 or nearest >= 1 else min(12, 1 - math.floor(math.log10(nearest)))
    return f"{100 * fraction:.{digits}f} %"


def whole(count: int) -> str:
    """Write an integer with its thousands set apart.

    >>> whole(266200)
    '266,200'
    """
    return f"{count:,}"


def times(factor: float) -> str:
    """Write a ratio with three significant digits at most.

    >>> times(1.0), times(41.87), times(1234.5)
    ('1.0', '41.9', '1,234')
    """
    return f"{factor:.1f}" if factor < 99.95 else f"{factor:,.0f}"


def more(cost: TrainingCost) -> str:
    """Write how the balance point's training compares with the dense model's.

    >>> more(TrainingCost(dense=2e12, balance=3e12, run=9e12)), more(TrainingCost(dense=2e12, balance=1e12, run=9e12))
    ('1.5x more', '2.0x less')
    >>> more(TrainingCost(dense=1e12, balance=1.01e12, run=1e12)), more(TrainingCost(dense=0, balance=1, run=1))
    ('as much', '')
    """
    if not cost.dense or not cost.balance:
        return ""
    ratio = cost.balance / cost.dense
    if times(max(ratio, 1 / ratio)) == times(1.0):
        return "as much"
    return f"{times(ratio)}x more" if ratio >= 1 else f"{times(1 / ratio)}x less"


def duration(seconds: float) -> str:
    """Write a time span in the two units that matter.

    >>> duration(4.2), duration(75), duration(7384)
    ('4.2 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


@dataclass(frozen=True)
class Scale:
    """How values of a metric are written: percentages with two decimals, others with the same decimals everywhere.

    >>> accuracy = Scale(Metric("accuracy", True, "pt", True), decimals=2)
    >>> accuracy.value(0.9722), accuracy.difference(-0.0028), accuracy.change(0.0028), accuracy.change(0.0)
    ('97.22 %', '-0.28 pt', '0.28 pt worse', 'no change')
    >>> error = Scale(Metric("RMSE", False, "kWh", False), decimals=5)
    >>> error.value(0.0421), error.allowance(0.0021), error.change(-0.00131)
    ('0.04210 kWh', '0.0021 kWh', '0.00131 kWh better')
    """

    metric: Metric
    decimals: int

    @property
    def unit(self) -> str:
        """The unit of differences, which may be empty."""
        return "pt" if self.metric.percent else one_line(self.metric.unit)

    def value(self, number: float) -> str:
        """Write a value of the metric."""
        if self.metric.percent:
            return f"{self._number(100 * number)} %"
        return f"{self._number(number)} {'' if self.unit == 'pt' else self.unit}".strip()

    def difference(self, number: float) -> str:
        """Write a difference between two values, in points where the metric is a percentage."""
        return f"{self._number(100 * number if self.metric.percent else number)} {self.unit}".strip()

    def allowance(self, number: float) -> str:
        """Write a difference that somebody asked for, without zeros at the end."""
        figures, _, unit = self.difference(number).partition(" ")
        if "." in figures and "e" not in figures:
            figures = figures.rstrip("0").rstrip(".")
        return f"{figures} {unit}".strip()

    def change(self, drop: float) -> str:
        """Write a drop in words: by how much it is worse or better."""
        size = self.difference(abs(drop))
        if size == self.difference(0.0):
            return "no change"
        return f"{size} {'worse' if drop > 0 else 'better'}"

    def interval(self, low: float, high: float) -> str:
        """Write an interval of differences, the unit named once."""
        return f"[{self.difference(low).removesuffix(self.unit).strip()}, {self.difference(high)}]"

    def _number(self, number: float) -> str:
        if self.decimals > 8 or abs(number) >= 1e9:
            return f"{number:.3e}"
        # Adding 0.0 turns a rounded -0.0 into 0.0.
        return f"{round(number, self.decimals) + 0.0:,.{self.decimals}f}"


def scale(data: ReportData) -> Scale:
    """Return the scale on which the report's metric is written: the dense baseline shows four significant digits."""
    return scale_of(data.metric, data.floor.baseline)


def scale_of(metric: Metric, baseline: float) -> Scale:
    """Return the scale on which a baseline shows four significant digits.

    >>> scale_of(Metric("RMSE", False, "kWh", False), 12.3456).value(12.3456)
    '12.35 kWh'
    """
    if metric.percent:
        return Scale(metric, 2)
    size = abs(baseline)
    return Scale(metric, max(0, 3 - math.floor(math.log10(size))) if size > 0 else 4)


def judged(data: ReportData) -> tuple[str, float, float]:
    """Return the split that judges, and what the dense and the sparse model reach on it: test where there is one."""
    if data.dense.test_metric is None or data.balance.test_metric is None:
        return "validation", data.dense.validation_metric, data.balance.validation_metric
    return "test", data.dense.test_metric, data.balance.test_metric


def verdict(data: ReportData) -> str:
    """Say in one sentence whether the test split holds the floor."""
    found, written = data.verdict, scale(data)
    if found.state == "untested":
        return "untested: there is no test split, and the validation split chose the balance point"
    allowed, where = written.allowance(found.allowed), written.interval(found.low, found.high)
    moved = written.change(found.drop).replace("no change", "unchanged")
    if not found.samples:
        return f"{found.state}: test {one_line(data.metric.name)} {moved}, allowed {allowed}, no interval"
    samples = f"{whole(found.samples)} samples"
    if found.state == "unresolved":
        drop = written.difference(found.drop)
        return f"not resolvable with {samples}: drop {drop}, 95 % interval {where}, allowed {allowed}"
    return (
        f"{found.state}: test {one_line(data.metric.name)} {moved}, 95 % interval {where}, allowed {allowed}, {samples}"
    )


def one_line(text: str, limit: int | None = None) -> str:
    """Put any text on one line without control characters, cut in the middle to at most ``limit`` characters.

    >>> one_line("encoder.layers.11.self_attn.in_proj_weight", 20)
    'encoder....oj_weight'
    """
    flat = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    if limit is None or len(flat) <= limit:
        return flat
    head = max(1, (limit - 3) // 2)
    return f"{flat[:head]}...{flat[len(flat) - max(1, limit - 3 - head) :]}"


def short_names(names: Sequence[str], limit: int) -> list[str]:
    """Shorten dotted names to at most ``limit`` characters each, dropping first the parts that all of them share.

    What is still too long is cut where most names stay distinct: in the middle, at the end or at the beginning.

    >>> short_names(["encoder.0.fc1.weight", "encoder.1.fc2.weight"], 10)
    ['0.fc1', '1.fc2']
    >>> short_names(["class 1, with a long name", "class 2, with a long name"], 12)
    ['class 1, ...', 'class 2, ...']
    """
    parts = [one_line(name).split(".") for name in names]
    if len(parts) > 1 and any(len(".".join(name)) > limit for name in parts):
        shortest = min(len(name) for name in parts)
        # One part at least stays, so that no name becomes empty.
        head = next((i for i in range(shortest - 1) if len({name[i] for name in parts}) > 1), shortest - 1)
        spare = shortest - 1 - head
        tail = next((i for i in range(spare) if len({name[-1 - i] for name in parts}) > 1), spare)
        parts = [name[head : len(name) - tail] for name in parts]
    whole_names = [".".join(name) for name in parts]
    cuts = [
        [one_line(name, limit) for name in whole_names],
        [name if len(name) <= limit else f"{name[: limit - 3]}..." for name in whole_names],
        [name if len(name) <= limit else f"...{name[len(name) - limit + 3 :]}" for name in whole_names],
    ]
    return max(cuts, key=lambda names: len(set(names)))
