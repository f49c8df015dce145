"""Pruning a trained model by what its layers see: layer by layer, on batches of calibration data."""

from isogrid.sparsify.calibrated.alps import ALPS
from isogrid.sparsify.calibrated.batchnorm import reestimate_batch_norm
from isogrid.sparsify.calibrated.method import Calibrated
from isogrid.sparsify.calibrated.sparsegpt import SparseGPT
from isogrid.sparsify.calibrated.wanda import Wanda

__all__ = ["ALPS", "Calibrated", "SparseGPT", "Wanda", "reestimate_batch_norm"]
