"""Allocations: how one sparsity for the whole model is shared out over its layers."""

from __future__ import annotations

from isogrid.allocation.base import Allocation, Layer
from isogrid.allocation.budget import Budget, LayerCost
from isogrid.allocation.outliers import OWL
from isogrid.allocation.ranking import LAMP, Global
from isogrid.allocation.shapes import ERK, Uniform
from isogrid.errors import UsageError
from isogrid.names import canonical, unknown_name

__all__ = [
    "ERK",
    "LAMP",
    "OWL",
    "Allocation",
    "Budget",
    "Global",
    "Layer",
    "LayerCost",
    "Uniform",
    "parse_allocation",
]

_ALLOCATIONS: dict[str, type[Allocation]] = {kind.name: kind for kind in (Uniform, ERK, Global, LAMP, OWL)}


def parse_allocation(text: str) -> Allocation:
    """The allocation named by `text`: uniform, erk, global, lamp or owl.

    Raises:
        UsageError: the text names no allocation, or one that needs more than a name (`Budget`).

    >>> parse_allocation("erk")
    ERK()
    """
    name = canonical(text)
    if name == Budget.name:
        raise UsageError("Allocation 'budget' needs costs and a limit; accepted is Budget(costs, limit=...).")
    if name not in _ALLOCATIONS:
        raise unknown_name("allocation", text, _ALLOCATIONS)
    return _ALLOCATIONS[name]()
