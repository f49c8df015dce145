"""The structure of a model: which parts of it belong together, and a smaller model without some of them."""

from isogrid.structure.attention import ShrunkAttention
from isogrid.structure.groups import Kept
from isogrid.structure.report import ShrinkReport, Shrunk, ShrunkGroup
from isogrid.structure.shrink import shrink
from isogrid.structure.unit_scores import Sums, UnitNorm, UnitScore, UnitTaylor, parse_unit_score

__all__ = [
    "Kept",
    "ShrinkReport",
    "Shrunk",
    "ShrunkAttention",
    "ShrunkGroup",
    "Sums",
    "UnitNorm",
    "UnitScore",
    "UnitTaylor",
    "parse_unit_score",
    "shrink",
]
