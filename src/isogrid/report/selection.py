"""What is shown of points, layers and classes where there are too many to show them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from isogrid.report.data import ClassRow, LayerRow, Point

_Row = TypeVar("_Row")


def frontier(points: Sequence[Point], most: int) -> list[Point]:
    """Return the frontier and the chosen point, from most to fewest bytes, at most ``most`` around the chosen one.

    >>> def point(size, chosen=False): return Point(1, 0.9, 0.9, 10, "int8", 0.97, size, True, chosen, True)
    >>> [each.bytes for each in frontier([point(1), point(2), point(3, chosen=True), point(4)], most=2)]
    [4, 3]
    """
    on_it = [point for point in points if point.on_frontier or point.chosen]
    on_it.sort(key=lambda point: (-point.bytes, point.rung))
    middle = next((place for place, point in enumerate(on_it) if point.chosen), 0)
    first = max(0, min(middle - most // 2, len(on_it) - most))
    return on_it[first : first + most]


def largest_layers(layers: Sequence[LayerRow], most: int) -> list[LayerRow]:
    """Return at most ``most`` layers, those with most parameters, in the model's order."""
    return _top(layers, most, lambda layer: layer.parameters)


def most_changed(classes: Sequence[ClassRow], most: int) -> list[ClassRow]:
    """Return at most ``most`` classes, those whose metric moved most, in their own order.

    >>> rows = [ClassRow("a", 9, 1.0, 0.5), ClassRow("b", 9, 1.0, 1.0), ClassRow("c", 9, 0.2, 0.9)]
    >>> [row.name for row in most_changed(rows, most=2)]
    ['a', 'c']
    """
    return _top(classes, most, lambda row: abs(row.dense - row.sparse))


def _top(rows: Sequence[_Row], most: int, weight: Callable[[_Row], float]) -> list[_Row]:
    ranked = sorted(range(len(rows)), key=lambda index: -weight(rows[index]))
    return [rows[index] for index in sorted(ranked[:most])]
