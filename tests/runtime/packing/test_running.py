"""How much two lists of outputs differ."""

import math

import numpy as np
import pytest

from isogrid.errors import FormatError
from isogrid.runtime.packing.running import difference, runner

ONE = np.float32([1, 2, -4])


@pytest.mark.parametrize(
    ("found", "expected", "differs"),
    [
        ([ONE], [ONE], 0),
        ([ONE + np.float32(0.5)], [ONE], 0.125),
        ([ONE, ONE], [ONE], math.inf),
        ([ONE[:2]], [ONE], math.inf),
        ([ONE.astype(np.float64)], [ONE], math.inf),
        ([np.array([1, 2])], [np.array([1, 2])], 0),
        ([np.array([1, 3])], [np.array([1, 2])], math.inf),
        ([np.array(["a", "b"])], [np.array(["a", "c"])], math.inf),
        ([np.float32([np.nan, 1])], [np.float32([np.nan, 1])], 0),
        ([np.float32([np.nan, 1])], [np.float32([0, 1])], math.inf),
        ([np.float32([0, 1])], [np.float32([np.inf, 1])], math.inf),
        ([np.float32([-np.inf])], [np.float32([np.inf])], math.inf),
        ([np.float32([np.inf])], [np.float32([np.inf])], 0),
        ([np.float32([])], [np.float32([])], 0),
        ([np.float32([0.25])], [np.float32([0])], 0.25),
        ([[{"a": 1.0, "b": 0.5}]], [[{"a": 1.0, "b": 0.5}]], 0),
        ([[{"a": 1.0, "b": 0.5}]], [[{"a": 1.0, "c": 0.5}]], math.inf),
        ([[{"a": 8.0, "b": 0.25}]], [[{"a": 8.0, "b": 0.125}]], 1 / 64),
        ([None], [None], 0),
        ([None], [ONE], math.inf),
    ],
)
def test_differences(found, expected, differs):
    assert difference(found, expected) == differs


def test_what_is_no_model_is_refused():
    with pytest.raises(FormatError, match="ONNX Runtime cannot load the model"):
        runner(b"nothing")
