"""Sparse training in Keras 3, on TensorFlow, PyTorch and JAX; ``import isogrid.keras`` is its short name.

Importing it makes ``sparse_relu`` and ``sparse_tanh`` known to Keras by name.  With the TensorFlow and the JAX backend
no PyTorch is needed.
"""

from isogrid.integrations.missing import missing

try:
    import keras  # noqa: F401 - all that follows needs it
except ModuleNotFoundError as problem:
    raise missing(problem, "keras", extra="keras") from None

from isogrid.integrations.keras.activations import SparseReLU, SparseTanh, register, sparse_relu, sparse_tanh
from isogrid.integrations.keras.callback import Sparsify
from isogrid.integrations.keras.counting import SparsityReport, measure
from isogrid.integrations.keras.exporting import export
from isogrid.integrations.keras.methods import SET, Aware, Gradual, OneShot, RigL, Static, Trigger
from isogrid.integrations.keras.optimizing import optimize
from isogrid.integrations.keras.penalties import L1, ElasticNet
from isogrid.integrations.keras.pruning import prune
from isogrid.integrations.keras.recipe import Recipe
from isogrid.integrations.keras.regularizers import GroupLasso, HoyerSquare
from isogrid.integrations.keras.stopping import StopAtAccuracy
from isogrid.integrations.keras.targets import find_targets
from isogrid.integrations.keras.weights import quantize

register()

__all__ = [
    "L1",
    "SET",
    "Aware",
    "ElasticNet",
    "Gradual",
    "GroupLasso",
    "HoyerSquare",
    "OneShot",
    "Recipe",
    "RigL",
    "SparseReLU",
    "SparseTanh",
    "Sparsify",
    "SparsityReport",
    "Static",
    "StopAtAccuracy",
    "Trigger",
    "export",
    "find_targets",
    "measure",
    "optimize",
    "prune",
    "quantize",
    "sparse_relu",
    "sparse_tanh",
]
