"""Methods that make zeros, and the sparsifier that runs them inside a training loop."""

from isogrid.calibration import Calibration
from isogrid.rules.method import Usage
from isogrid.sparsify.acdc import ACDC
from isogrid.sparsify.adapters import mask_delta, masked_delta
from isogrid.sparsify.aware import Aware
from isogrid.sparsify.calibrated import ALPS, SparseGPT, Wanda, reestimate_batch_norm
from isogrid.sparsify.dynamic import SET, RigL
from isogrid.sparsify.gradual import Gradual
from isogrid.sparsify.hard_concrete import HardConcrete
from isogrid.sparsify.imp import IMP
from isogrid.sparsify.keep import KeepZeros
from isogrid.sparsify.method import Method, methods, parse_climbing, parse_method, register_method
from isogrid.sparsify.movement import Movement, SoftMovement
from isogrid.sparsify.oneshot import OneShot
from isogrid.sparsify.prune import PruneReport, prune
from isogrid.sparsify.regularized import Regularized
from isogrid.sparsify.shadow import ShadowMethod
from isogrid.sparsify.soft_threshold import SoftThreshold
from isogrid.sparsify.sparsifier import Sparsifier
from isogrid.sparsify.state import SparseLayer, SparseState
from isogrid.sparsify.static import LayerCollapseWarning, Static
from isogrid.sparsify.topkast import TopKAST
from isogrid.sparsify.trigger import Trigger

__all__ = [
    "ACDC",
    "ALPS",
    "IMP",
    "SET",
    "Aware",
    "Calibration",
    "Gradual",
    "HardConcrete",
    "KeepZeros",
    "LayerCollapseWarning",
    "Method",
    "Movement",
    "OneShot",
    "PruneReport",
    "Regularized",
    "RigL",
    "ShadowMethod",
    "SoftMovement",
    "SoftThreshold",
    "SparseGPT",
    "SparseLayer",
    "SparseState",
    "Sparsifier",
    "Static",
    "TopKAST",
    "Trigger",
    "Usage",
    "Wanda",
    "mask_delta",
    "masked_delta",
    "methods",
    "parse_climbing",
    "parse_method",
    "prune",
    "reestimate_batch_norm",
    "register_method",
]
