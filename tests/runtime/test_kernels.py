"""The native kernels through Python, on every target; native/tests holds the exhaustive tests of each function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.kernels import KernelConformance, address
from isogrid import _native
from isogrid.runtime.matrix import SparseMatrix

MATRIX = SparseMatrix.from_dense(np.array([[1, 0, 2], [0, 0, 0]], np.float32))


def on(target: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(target not in _native.targets(), reason=f"this processor has no {target}")


@on("baseline")
class TestBaseline(KernelConformance):
    target = "baseline"


@on("avx2")
class TestAvx2(KernelConformance):
    target = "avx2"


@on("avx512")
class TestAvx512(KernelConformance):
    target = "avx512"


@on("neon")
class TestNeon(KernelConformance):
    target = "neon"


def linear(**changes: Any) -> _native.Linear:
    arguments: dict[str, Any] = {
        "rows": 2,
        "columns": 3,
        "row_begin": MATRIX.row_begin,
        "column": MATRIX.column,
        "values": MATRIX.values,
        "scales": None,
        "bias": None,
        "activation": 0,
        "low": 0.0,
        "high": 0.0,
        "skip_zeros": False,
    }
    return _native.Linear(**(arguments | changes))


def convolution(**changes: Any) -> _native.Convolution:
    arguments: dict[str, Any] = {
        "rows": 2,
        "columns": 3,
        "row_begin": MATRIX.row_begin,
        "column": MATRIX.column,
        "values": MATRIX.values,
        "scales": None,
        "bias": None,
        "activation": 0,
        "low": 0.0,
        "high": 0.0,
        "groups": 1,
        "channels": 1,
        "kernel": (1, 3),
        "stride": (1, 1),
        "padding": (0, 0, 0, 0),
        "dilation": (1, 1),
    }
    return _native.Convolution(**(arguments | changes))


def test_every_target_of_this_processor_has_its_suite() -> None:
    suites = {suite.target for suite in KernelConformance.__subclasses__()}
    assert set(_native.targets()) <= suites


def test_the_best_target_comes_first_and_the_baseline_last() -> None:
    targets = _native.targets()
    assert targets[-1] == "baseline"
    features = _native.cpu_features()
    if all(features[f"avx512{part}"] for part in ("f", "bw", "dq", "vl")):
        assert targets[0] == "avx512"
    elif features["avx2"]:
        assert targets[0] == "avx2"


def test_an_unknown_target_is_refused_and_changes_nothing() -> None:
    before = _native.current_target()
    with pytest.raises(ValueError, match="there is no such target"):
        _native.select_target("abacus")
    assert _native.current_target() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "size is zero"),
        ({"rows": 3}, "row_begin must have"),
        ({"columns": 2**40}, "too large"),
        ({"columns": 2}, "must be strictly ascending"),
        ({"values": MATRIX.values[:1]}, "do not agree"),
        ({"values": MATRIX.values.astype(np.float64)}, "must be f32, f16 or int8"),
        ({"values": np.array([1, 2], np.int8)}, "scales belong to int8"),
        ({"scales": np.ones(2, np.float32)}, "scales belong to int8"),
        ({"values": np.array([1, 2], np.int8), "scales": np.ones(3, np.float32)}, "scales belong to int8"),
        ({"bias": np.ones(3, np.float32)}, "do not agree"),
        ({"activation": 13}, "no such activation"),
        ({"activation": -1}, "no such activation"),
    ],
)
@pytest.mark.parametrize("make", [linear, convolution])
def test_what_does_not_fit_together_is_refused(make: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"row_begin": MATRIX.row_begin.astype(np.int32)},
        {"column": MATRIX.column.astype(np.int64)},
        {"column": np.repeat(MATRIX.column, 2)[::2]},
        {"values": None},
    ],
)
@pytest.mark.parametrize("make", [linear, convolution])
def test_arrays_are_never_converted(make: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        make(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "do not agree"),
        ({"groups": 0}, "do not agree"),
        ({"channels": 2}, "do not agree"),
        ({"kernel": (1, 2)}, "do not agree"),
    ],
)
def test_convolutions_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convolution(**changes)


def test_runs_that_are_refused() -> None:
    x, y = np.zeros(9, np.float32), np.zeros(9, np.float32)
    with pytest.raises(ValueError, match="null"):
        linear().run(0, 1, 0, address(y))
    with pytest.raises(ValueError, match="null"):
        linear().run(address(x), 1, 0, 0)
    with pytest.raises(ValueError, match="multiple of"):
        linear().run(address(x) + 2, 1, 0, address(y))
    with pytest.raises(ValueError, match="negative or too large"):
        linear().run(address(x), -1, 0, address(y))
    with pytest.raises(ValueError, match="does not fit"):
        convolution().run(address(x), 1, 3, 2, 0, address(y))
    with pytest.raises(ValueError, match="negative or too large"):
        convolution(stride=(0, 1)).run(address(x), 1, 3, 3, 0, address(y))
    with pytest.raises(ValueError, match="does not fit"):
        convolution().output_size(3, 2)
    assert (y == 0).all()


def test_an_operation_keeps_what_it_was_made_from() -> None:
    weights, bias = MATRIX.values.copy(), np.array([10, 20], np.float32)
    operation = linear(values=weights, bias=bias)
    weights[:] = 0
    bias[:] = 0
    x, y = np.array([1, 2, 3], np.float32), np.zeros(2, np.float32)
    operation.run(address(x), 1, 0, address(y))
    assert y.tolist() == [17, 20]
