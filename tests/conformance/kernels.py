"""What every target of the native kernels promises: the numbers that float64 arithmetic gives, whatever the shape.

native/tests tries every function of a target on its own; this is the way that Python goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from conformance.values import seeded
from isogrid import _native
from isogrid.runtime.epilogue import ACTIVATIONS, Epilogue
from isogrid.runtime.matrix import VALUES, SparseMatrix

Floats = NDArray[np.float32]

few = settings(seeded, max_examples=100)
many = settings(seeded, max_examples=1000)

EXACT = ("none", "relu", "clip", "leaky_relu", "sparse_relu")
"""Activations that make no rounding errors of whole numbers (with a slope that is a power of two)."""


def activated(epilogue: Epilogue, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The activation as PyTorch computes it in float64."""
    t, low, high = torch.from_numpy(x), epilogue.low, epilogue.high
    result: Tensor = {
        "none": lambda: t,
        "relu": lambda: F.relu(t),
        "clip": lambda: torch.clamp(t, low, high),
        "leaky_relu": lambda: F.leaky_relu(t, low),
        "gelu": lambda: F.gelu(t),
        "gelu_tanh": lambda: F.gelu(t, approximate="tanh"),
        "silu": lambda: F.silu(t),
        "hard_swish": lambda: F.hardswish(t),
        "hard_sigmoid": lambda: F.hardsigmoid(t),
        "sigmoid": lambda: torch.sigmoid(t),
        "tanh": lambda: torch.tanh(t),
        "sparse_relu": lambda: torch.where(t > low, t, 0.0),
        "sparse_tanh": lambda: torch.where(t.abs() > low, torch.tanh(t), 0.0),
    }[epilogue.activation]()
    return result.numpy()


@dataclass
class Guarded:
    """Results between floats that nobody may touch, at an address that is a multiple of 4 and of nothing more."""

    memory: Floats

    @classmethod
    def of(cls, size: int) -> Guarded:
        return cls(np.full(size + 6, 12345.25, np.float32))

    @property
    def address(self) -> int:
        return int(self.memory[3:].ctypes.data)

    def results(self) -> Floats:
        """Checks that nothing else was written."""
        assert (self.memory[:3] == 12345.25).all()
        assert (self.memory[-3:] == 12345.25).all()
        return self.memory[3:-3]


def at_odd_place(array: Floats) -> Floats:
    """A flat copy whose address is a multiple of 4 and of nothing more."""
    memory = np.empty(array.size + 3, np.float32)
    start = 1 if memory.ctypes.data % 8 == 0 else 2
    place = memory[start : start + array.size]
    place[:] = array.ravel()
    return place


def address(array: Floats | None) -> int:
    return 0 if array is None else int(array.ctypes.data)


@dataclass
class Numbers:
    """Where the numbers of a case come from; whole ones have exact sums, whatever the order of the additions."""

    random: np.random.Generator
    whole: bool

    def floats(self, *shape: int) -> Floats:
        if self.whole:
            return self.random.integers(-8, 9, shape).astype(np.float32)
        return self.random.standard_normal(shape).astype(np.float32)

    def weights(self, rows: int, columns: int, density: float, values: str) -> SparseMatrix:
        """With empty and full rows; whole numbers as int8 have a scale that is a power of two."""
        dense = self.floats(rows, columns)
        dense[self.random.random((rows, columns)) >= density] = 0
        if self.whole and values == "int8":
            dense[:, 0] = 127.0 / 8
            dense[:, 1:] = np.clip(dense[:, 1:], -8, 8)
        kind = self.random.random(rows)
        dense[kind < 0.1] = 0
        full = kind > 0.9
        dense[full] = np.where(dense[full] == 0, np.float32(1), dense[full])
        return SparseMatrix.from_dense(dense, values)


@st.composite
def numbers(draw: st.DrawFn) -> Numbers:
    return Numbers(np.random.default_rng(draw(st.integers(0, 10**6))), draw(st.booleans()))


@st.composite
def epilogues(draw: st.DrawFn) -> Epilogue:
    activation = draw(st.sampled_from(ACTIVATIONS))
    low = {"clip": -3.0, "leaky_relu": 0.25}.get(activation, 2.0)
    return Epilogue(activation, low, 6.0)


densities = st.sampled_from([0.0, 0.03, 0.1, 0.3, 1.0])


@dataclass
class Expected:
    """What must come out: results before the activation, and the magnitudes of all that went into each of them."""

    sums: NDArray[np.float64]
    magnitudes: NDArray[np.float64]

    def add(self, terms: Floats) -> None:
        self.sums += terms
        self.magnitudes += np.abs(terms.astype(np.float64))

    def check(self, got: Floats, epilogue: Epilogue, whole: bool) -> None:
        y = got.reshape(self.sums.shape).astype(np.float64)
        right = activated(epilogue, self.sums)
        if whole and epilogue.activation in EXACT:
            np.testing.assert_array_equal(y, right)
            return
        tolerance = 1e-5 * self.magnitudes + 1e-6
        good = np.abs(y - right) <= tolerance
        if epilogue.activation.startswith("sparse"):
            # They jump; a sum beside the threshold may fall on either side of it.
            for beside in (self.sums - tolerance, self.sums + tolerance):
                good |= np.abs(y - activated(epilogue, beside)) <= tolerance
        assert good.all(), f"{np.abs(y - right)[~good].max()} off"


def poison(x: Floats, met: NDArray[np.bool_]) -> Floats:
    """NaN where no weight multiplies it."""
    return np.where(met, x, np.float32(np.nan))


class KernelConformance:
    """Set `target`, and skip the class where `isogrid._native.targets()` does not name it."""

    target: ClassVar[str]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def selected(cls) -> Iterator[None]:
        before = _native.current_target()
        _native.select_target(cls.target)
        yield
        _native.select_target(before)

    @few
    @given(st.data(), numbers())
    def test_linear(self, data: st.DataObject, source: Numbers) -> None:
        self.check_linear(data, source)

    @few
    @given(st.data(), numbers())
    def test_convolution(self, data: st.DataObject, source: Numbers) -> None:
        self.check_convolution(data, source)

    @few
    @given(st.data(), numbers())
    def test_max_pool(self, data: st.DataObject, source: Numbers) -> None:
        self.check_max_pool(data, source)

    @pytest.mark.slow
    @many
    @given(st.data(), numbers())
    def test_linear_many_times(self, data: st.DataObject, source: Numbers) -> None:
        self.check_linear(data, source)

    @pytest.mark.slow
    @many
    @given(st.data(), numbers())
    def test_convolution_many_times(self, data: st.DataObject, source: Numbers) -> None:
        self.check_convolution(data, source)

    @pytest.mark.slow
    @many
    @given(st.data(), numbers())
    def test_max_pool_many_times(self, data: st.DataObject, source: Numbers) -> None:
        self.check_max_pool(data, source)

    def check_linear(self, data: st.DataObject, source: Numbers) -> None:
        draw = data.draw
        rows, columns = draw(st.integers(1, 70), label="rows"), draw(st.integers(1, 300), label="columns")
        tokens = draw(st.one_of(st.just(1), st.integers(2, 8), st.integers(1, 140)), label="tokens")
        matrix = source.weights(rows, columns, draw(densities), draw(st.sampled_from(VALUES)))
        epilogue = draw(epilogues())
        bias = source.floats(rows) if draw(st.booleans(), label="bias") else None
        residual = at_odd_place(source.floats(tokens, rows)) if draw(st.booleans(), label="residual") else None
        skip_zeros = draw(st.booleans(), label="skip_zeros")
        dense = matrix.to_dense().astype(np.float64)
        x = source.floats(tokens, columns)
        if skip_zeros:
            x[source.random.random(x.shape) > draw(st.sampled_from([0.0, 0.2, 0.4, 1.0]), label="nonzero inputs")] = 0

        expected = Expected(x @ dense.T, np.abs(x) @ np.abs(dense.T))
        if bias is not None:
            expected.add(np.broadcast_to(bias, (tokens, rows)))
        if residual is not None:
            expected.add(residual.reshape(tokens, rows))

        operation = _native.Linear(
            rows, columns, matrix.row_begin, matrix.column, matrix.values, matrix.scales, bias,
            epilogue.code, epilogue.low, epilogue.high, skip_zeros,
        )  # fmt: skip
        met = np.zeros(columns, dtype=np.bool_)
        met[matrix.column] = True
        for inputs in (x, poison(x, np.broadcast_to(met, x.shape))):
            place = at_odd_place(inputs)
            y = Guarded.of(tokens * rows)
            operation.run(address(place), tokens, address(residual), y.address)
            expected.check(y.results(), epilogue, source.whole)

    def check_convolution(self, data: st.DataObject, source: Numbers) -> None:
        draw = data.draw
        groups = draw(st.sampled_from([1, 1, 2, 3, 8]), label="groups")
        channels, rows = draw(st.integers(1, 6), label="channels"), groups * draw(st.integers(1, 6), label="rows")
        window = draw(windows())
        images, height, width = draw(st.integers(1, 3)), *window.image
        taps = window.kernel[0] * window.kernel[1]
        matrix = source.weights(rows, channels * taps, draw(densities), draw(st.sampled_from(VALUES)))
        epilogue = draw(epilogues())
        kernel = torch.from_numpy(matrix.to_dense().astype(np.float64)).reshape(rows, channels, *window.kernel)
        x = source.floats(images, groups * channels, height, width)
        top, left, bottom, right = window.padding

        def convolve(inputs: Tensor, weights: Tensor) -> NDArray[np.float64]:
            padded = F.pad(inputs, (left, right, top, bottom))
            return F.conv2d(padded, weights, None, window.stride, 0, window.dilation, groups).numpy()

        wide = torch.from_numpy(x.astype(np.float64))
        expected = Expected(convolve(wide, kernel), convolve(wide.abs(), kernel.abs()))
        shape = expected.sums.shape
        bias = source.floats(rows) if draw(st.booleans(), label="bias") else None
        residual = at_odd_place(source.floats(*shape)) if draw(st.booleans(), label="residual") else None
        if bias is not None:
            expected.add(np.broadcast_to(bias[:, None, None], shape))
        if residual is not None:
            expected.add(residual.reshape(shape))

        operation = _native.Convolution(
            rows, channels * taps, matrix.row_begin, matrix.column, matrix.values, matrix.scales, bias,
            epilogue.code, epilogue.low, epilogue.high, groups, channels,
            window.kernel, window.stride, window.padding, window.dilation,
        )  # fmt: skip
        assert operation.output_size(height, width) == shape[2:]
        # What a weight meets has a gradient.
        traced = torch.zeros(1, *x.shape[1:], dtype=torch.float64, requires_grad=True)
        stored = np.zeros((rows, channels * taps))
        stored[np.repeat(np.arange(rows), np.diff(matrix.row_begin)), matrix.column] = 1
        padded = F.pad(traced, (left, right, top, bottom))
        present = torch.from_numpy(stored).reshape(kernel.shape)
        F.conv2d(padded, present, None, window.stride, 0, window.dilation, groups).sum().backward()
        assert traced.grad is not None
        met = np.broadcast_to(traced.grad.numpy() > 0.5, x.shape)
        for inputs in (x, poison(x, met)):
            place = at_odd_place(inputs)
            y = Guarded.of(expected.sums.size)
            operation.run(address(place), images, height, width, address(residual), y.address)
            expected.check(y.results(), epilogue, source.whole)

    def check_max_pool(self, data: st.DataObject, source: Numbers) -> None:
        draw = data.draw
        window = draw(windows())
        top, left, _, _ = window.padding
        planes, height, width = draw(st.integers(1, 9), label="planes"), *window.image
        x = source.floats(planes, height, width)
        x[source.random.random(x.shape) < 0.02] = np.nan
        # PyTorch's own padding is the same on both sides.
        image = F.pad(torch.from_numpy(x), (left, left, top, top), value=-torch.inf)
        if min(image.shape[1] - window.reach[0], image.shape[2] - window.reach[1]) < 0:
            return
        right = F.max_pool2d(image, window.kernel, window.stride, 0, window.dilation).numpy()
        arguments = (window.kernel, window.stride, (top, left), window.dilation)
        assert _native.max_pool_size(height, width, *arguments) == right.shape[1:]
        place = at_odd_place(x)
        y = Guarded.of(right.size)
        _native.max_pool(address(place), planes, height, width, *arguments, y.address)
        np.testing.assert_array_equal(y.results().reshape(right.shape), right)


@dataclass(frozen=True)
class Window:
    """How a kernel moves over an image into which it fits."""

    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]

    @property
    def reach(self) -> tuple[int, int]:
        """From the first tap to the last."""
        return (
            self.dilation[0] * (self.kernel[0] - 1) + 1,
            self.dilation[1] * (self.kernel[1] - 1) + 1,
        )


def pairs(low: int, high: int) -> st.SearchStrategy[Any]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    kernel, stride, dilation = draw(pairs(1, 5)), draw(pairs(1, 3)), draw(pairs(1, 3))
    padding = (*draw(pairs(0, 3)), *draw(pairs(0, 3)))
    sizes = []
    for axis in range(2):
        smallest = dilation[axis] * (kernel[axis] - 1) + 1 - padding[axis] - padding[axis + 2]
        sizes.append(max(1, smallest) + draw(st.integers(0, 18)))
    return Window((sizes[0], sizes[1]), kernel, stride, padding, dilation)
