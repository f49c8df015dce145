"""Methods that make zeros, and the sparsifier that runs them inside a training loop."""

from isogrid.sparsify.aware import Aware
from isogrid.sparsify.calibration import Calibration
from isogrid.sparsify.gradual import Gradual
from isogrid.sparsify.method import Method, Usage, methods, parse_method, register_method
from isogrid.sparsify.oneshot import OneShot
from isogrid.sparsify.prune import PruneReport, prune
from isogrid.sparsify.regularized import Regularized
from isogrid.sparsify.sparsifier import Sparsifier
from isogrid.sparsify.state import SparseLayer, SparseState
from isogrid.sparsify.static import Static
from isogrid.sparsify.trigger import Trigger

__all__ = [
    "Aware",
    "Calibration",
    "Gradual",
    "Method",
    "OneShot",
    "PruneReport",
    "Regularized",
    "SparseLayer",
    "SparseState",
    "Sparsifier",
    "Static",
    "Trigger",
    "Usage",
    "methods",
    "parse_method",
    "prune",
    "register_method",
]
