"""Which activation a function of numbers is."""

import numpy as np
import pytest

from conformance.packed import activated
from isogrid.runtime.epilogue import Epilogue
from isogrid.runtime.packing.recognition import _POINTS, recognise

NAMES = ["relu", "gelu", "gelu_tanh", "silu", "hard_swish", "hard_sigmoid", "sigmoid", "tanh"]


@pytest.mark.parametrize("name", NAMES)
def test_every_activation_is_known_by_its_numbers(name):
    with np.errstate(all="ignore"):
        assert recognise(activated(_POINTS, name)) == Epilogue(name)


@pytest.mark.parametrize(("low", "high"), [(0, 6), (-1, 1), (-0.5, 100), (2, 3)])
def test_bounds_are_read_off(low, high):
    assert recognise(np.clip(_POINTS, low, high)) == Epilogue("clip", low, high)


@pytest.mark.parametrize("slope", [0.01, 0.2, 0.99, -0.5])
def test_slopes_are_read_off(slope):
    found = recognise(np.where(_POINTS > 0, _POINTS, slope * _POINTS))
    assert found is not None
    assert (found.activation, found.low) == ("leaky_relu", pytest.approx(slope))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: -x,
        lambda x: 2 * x,
        lambda x: x**2,
        np.zeros_like,
        np.ones_like,
        np.sin,
        lambda x: np.maximum(x, 0) + 1e-4,
        lambda x: np.clip(0.2 * x + 0.5, 0, 1),
        lambda x: x * activated(1.702 * x, "sigmoid"),
        lambda x: np.where(np.abs(x - 3) < 0.01, 0, np.maximum(x, 0)),
        lambda x: np.where(x > 1e5, 1e5, np.maximum(x, 0)) * np.where(x > 1e5, x, 1),
        lambda x: np.where(x > 5, np.nan, x),
    ],
)
def test_other_functions_are_not_taken_for_one(function):
    with np.errstate(all="ignore"):
        found = recognise(np.asarray(function(_POINTS), np.float64))
    assert found is None
