"""What is done to a graph before its layers are looked for, and after they were replaced."""

from __future__ import annotations

import contextlib
import logging
import warnings

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir

from isogrid.runtime.packing.layouts import drop_reshapes
from isogrid.runtime.packing.loops import write_gru

_LARGE = 256
"""Elements: constants above are evaluated when they are packed, and else stay as they are stored."""


def tidy(model: ir.Model) -> ir.Model:
    """Inline, fold and infer shapes, and undo what exporters do to products and GRUs; in place, and the model again."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            common.InlinePass()(model)
            fold_constants_ir(model, should_fold=_should_fold)
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
            common.NameFixPass()(model)
            # It fails where a value is a map; shapes are then those that the file has.
            with contextlib.suppress(RuntimeError):
                common.ShapeInferencePass(strict_mode=False)(model)
            write_gru(model)
            drop_reshapes(model)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return model


def remove_unused(model: ir.Model) -> None:
    """Take out the weights of replaced layers, and what only made them."""
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)


def _should_fold(node: ir.Node) -> bool | None:
    sizes = [tensor.size for value in node.inputs if value is not None and (tensor := value.const_value) is not None]
    return False if any(size > _LARGE for size in sizes) else None
