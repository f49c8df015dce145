"""Runs a model in ONNX Runtime, packed or not, and compares results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from isogrid.errors import FormatError, first_line

Feeds = Mapping[str, Any]
Run = Callable[[Feeds], list[Any]]


def open_model(model: bytes | str, *, packed: bool = False, threads: int = 1) -> Any:
    """An ``onnxruntime.InferenceSession`` of a file or of its bytes.

    Raises:
        FormatError: ONNX Runtime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    # By default ONNX Runtime computes products with dequantised weights from 8-bit activations.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if packed:
        from isogrid.runtime.library import library_path

        options.register_custom_ops_library(str(library_path()))
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        raise FormatError(f"ONNX Runtime cannot load the model: {first_line(problem)}.") from None


def runner(model: bytes | str, *, packed: bool = False) -> Run:
    """A function from inputs to all outputs.

    Raises:
        FormatError: ONNX Runtime refuses the model.
    """
    session = open_model(model, packed=packed)
    return lambda feeds: list(session.run(None, dict(feeds)))


def difference(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference, as a fraction of the largest number of each output.

    Infinite where shapes, whole numbers or texts differ, or where one side alone is not finite.

    >>> difference([np.array([1.0, 2.02])], [np.array([1.0, 2.0])])
    0.01...
    """
    if len(found) != len(expected):
        return math.inf
    return max((_differ(left, right) for left, right in zip(found, expected, strict=True)), default=0.0)


def _differ(found: Any, expected: Any) -> float:
    if expected is None or found is None:
        return 0.0 if found is expected else math.inf
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping) or list(found) != list(expected):
            return math.inf
        # One by one, a number near zero would count as an output of its own.
        return _differ(np.array(list(found.values())), np.array(list(expected.values())))
    if isinstance(expected, (list, tuple)):
        return difference(found, expected)
    left, right = np.asarray(found), np.asarray(expected)
    if left.shape != right.shape or left.dtype != right.dtype:
        return math.inf
    if right.dtype.kind not in "fV":
        return 0.0 if np.array_equal(left, right) else math.inf
    left, right = left.astype(np.float64), right.astype(np.float64)
    finite = np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True) or not np.all(np.isfinite(left[finite])):
        return math.inf
    if not np.any(finite):
        return 0.0
    largest = float(np.max(np.abs(right[finite])))
    return float(np.max(np.abs(left[finite] - right[finite]))) / (largest or 1.0)
