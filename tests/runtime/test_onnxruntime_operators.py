"""SparseLinear, SparseConv and SparseGather in ONNX Runtime give what numpy gives."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from conformance.packed import (
    ACTIVATIONS,
    POSITIONS,
    VALUES,
    activated,
    infers_shapes,
    inputs,
    model,
    node,
    pack,
    session,
    weights,
)

ROWS, COLUMNS = 70, 52


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def close(found: NDArray[Any], right: NDArray[Any]) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, right, rtol=2e-6, atol=2e-6)


def linear(weight: NDArray[Any], leading: tuple[int | str, ...], **options: Any) -> Any:
    """A session of one SparseLinear."""
    values, positions = options.pop("values", "fp32"), options.pop("positions", "rice")
    bias, residual, threads = options.pop("bias", None), options.pop("residual", False), options.pop("threads", 2)
    rows, columns = weight.shape
    constants: dict[str, Any] = {"w": pack(weight, values, positions)}
    given: dict[str, Any] = {"x": (*leading, columns)}
    names = ["x", "w", "", ""]
    if bias is not None:
        constants["b"] = bias
        names[2] = "b"
    if residual:
        given["r"] = (*leading, rows)
        names[3] = "r"
    while not names[-1]:
        names.pop()
    written = model([node("SparseLinear", names, ["y"], rows=rows, **options)], given, ["y"], constants)
    return session(written, threads)


@pytest.mark.parametrize(("values", "positions"), list(product(VALUES, POSITIONS)))
def test_linear_reads_every_kind_of_packed_weight(values: str, positions: str, random: np.random.Generator) -> None:
    weight, x = weights(random, ROWS, COLUMNS), inputs(random, 5, COLUMNS)
    found = linear(weight, ("n",), values=values, positions=positions).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, x @ weight.T)


@pytest.mark.parametrize(
    "leading",
    [(), (0,), (1,), (2,), (3,), (4,), (5,), (6,), (7,), (64,), (1, 1), (2, 3), (0, 3), (2, 2, 16), (1, 2, 1, 3)],
)
def test_linear_takes_any_number_of_samples_and_axes(leading: tuple[int, ...], random: np.random.Generator) -> None:
    weight, x = weights(random, ROWS, COLUMNS), inputs(random, *leading, COLUMNS)
    bias, residual = inputs(random, ROWS), inputs(random, *leading, ROWS)
    made = linear(weight, tuple(f"d{i}" for i in range(len(leading))), bias=bias, residual=True)
    found = made.run(None, {"x": x, "r": residual})[0]
    np.testing.assert_array_equal(found, x @ weight.T + bias + residual)


@pytest.mark.parametrize(("bias", "residual", "batch"), list(product([False, True], [False, True], [1, 9])))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear_with_every_epilogue(
    activation: str, bias: bool, residual: bool, batch: int, random: np.random.Generator
) -> None:
    weight, x = weights(random, ROWS, COLUMNS, 0.05), inputs(random, batch, COLUMNS)
    b = inputs(random, ROWS) if bias else None
    r = inputs(random, batch, ROWS)
    low, high = {"clip": (-1.0, 2.0), "leaky_relu": (0.25, 0.0)}.get(activation, (0.75, 0.0))
    made = linear(weight, ("n",), bias=b, residual=residual, activation=activation, low=low, high=high)
    sums = (x @ weight.T).astype(np.float64)
    sums += 0 if b is None else b
    sums += r if residual else 0
    found = made.run(None, {"x": x, "r": r} if residual else {"x": x})[0]
    close(found, activated(sums, activation, low, high))


@pytest.mark.parametrize("density", [0.0, 0.1, 0.2, 0.5, 1.0])
def test_linear_that_skips_zeros(density: float, random: np.random.Generator) -> None:
    weight, x = weights(random, ROWS, COLUMNS), inputs(random, 1, COLUMNS)
    x[random.random(x.shape) >= density] = 0
    bias = inputs(random, ROWS)
    found = linear(weight, ("n",), skip_zeros=1, bias=bias).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, x @ weight.T + bias)


def test_linear_shapes_are_inferred_and_names_of_sizes_kept(random: np.random.Generator) -> None:
    made = linear(weights(random, ROWS, COLUMNS), ("batch", 3, "steps"))
    expected = ["batch", 3, "steps", ROWS] if infers_shapes() else None
    assert expected is None or made.get_outputs()[0].shape == expected


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_every_number_of_threads_gives_the_same(threads: int, random: np.random.Generator) -> None:
    weight = weights(random, 300, 256)
    made = linear(weight, ("n",), threads=threads, bias=inputs(random, 300))
    again = linear(weight, ("n",), threads=threads)
    for batch in (1, 2, 33, 400):
        x = inputs(random, batch, 256)
        np.testing.assert_array_equal(again.run(None, {"x": x})[0], x @ weight.T)
        assert made.run(None, {"x": x})[0].shape == (batch, 300)


class Window:
    """A convolution by its formula, one tap after the other."""

    def __init__(self, kernel: tuple[int, ...], image: tuple[int, ...], **attributes: Any) -> None:
        self.kernel, self.image = kernel, image
        self.attributes = attributes
        axes = len(kernel)
        self.strides = attributes.get("strides", [1] * axes)
        self.dilations = attributes.get("dilations", [1] * axes)
        self.pads = attributes.get("pads", [0] * (2 * axes))
        self.group = attributes.get("group", 1)

    def reference(self, x: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.float64]:
        axes = len(self.kernel)
        widths = [(0, 0), (0, 0), *((self.pads[i], self.pads[axes + i]) for i in range(axes))]
        padded = np.pad(x.astype(np.float64), widths)
        rows = weight.shape[0]
        kernels = weight.reshape(self.group, rows // self.group, -1, *self.kernel).astype(np.float64)
        sizes = [
            (padded.shape[2 + i] - self.dilations[i] * (self.kernel[i] - 1) - 1) // self.strides[i] + 1
            for i in range(axes)
        ]
        grouped = padded.reshape(len(x), self.group, x.shape[1] // self.group, *padded.shape[2:])
        out = np.zeros((len(x), self.group, rows // self.group, *sizes))
        for tap in np.ndindex(*self.kernel):
            seen = tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, self.dilations, sizes, self.strides, strict=True)
            )
            out += np.einsum("grc,ngc...->ngr...", kernels[(..., *tap)], grouped[(..., *seen)])
        return out.reshape(len(x), rows, *sizes)


WINDOWS = [
    Window((1, 1), (5, 7)),
    Window((3, 3), (9, 8), pads=[1, 1, 1, 1]),
    Window((3, 3), (9, 8), pads=[1, 1, 1, 1], strides=[2, 2]),
    Window((3, 2), (12, 9), pads=[2, 0, 1, 1], strides=[1, 2], dilations=[2, 3]),
    Window((7, 7), (21, 20), pads=[3, 3, 3, 3], strides=[2, 2]),
    Window((3, 3), (8, 8), pads=[1, 1, 1, 1], group=2),
    Window((3, 3), (8, 6), pads=[1, 1, 1, 1], group=8),
    Window((5, 5), (9, 9), pads=[0, 4, 4, 0], group=8, strides=[2, 1]),
    Window((1,), (17,)),
    Window((3,), (33,), pads=[1, 1]),
    Window((5,), (40,), pads=[0, 4], strides=[3], dilations=[2]),
    Window((3,), (20,), pads=[2, 0], group=4),
]


def convolution(window: Window, weight: NDArray[Any], channels: int, **options: Any) -> Any:
    values, bias, residual = options.pop("values", "fp32"), options.pop("bias", None), options.pop("residual", False)
    image: tuple[Any, ...] = options.pop("image", window.image)
    given: dict[str, Any] = {"x": ("n", channels, *image)}
    constants: dict[str, Any] = {"w": pack(weight, values)}
    names = ["x", "w"]
    if bias is not None or residual:
        names += ["b" if bias is not None else ""]
    if bias is not None:
        constants["b"] = bias
    if residual:
        given["r"] = None
        names += ["r"]
    one = node("SparseConv", names, ["y"], rows=len(weight), kernel_shape=window.kernel, **window.attributes, **options)
    return session(model([one], given, ["y"], constants))


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("window", WINDOWS, ids=range(len(WINDOWS)))
def test_convolution(window: Window, values: str, random: np.random.Generator) -> None:
    channels, rows = 8, 16
    weight = weights(random, rows, channels // window.group * int(np.prod(window.kernel)))
    bias = inputs(random, rows)
    made = convolution(window, weight, channels, values=values, bias=bias, residual=True, activation="relu")
    for images in (1, 3, 0):
        x = inputs(random, images, channels, *window.image)
        right = window.reference(x, weight) + bias.reshape(-1, *[1] * len(window.kernel))
        residual = inputs(random, *right.shape)
        found = made.run(None, {"x": x, "r": residual})[0]
        np.testing.assert_array_equal(found, np.maximum(right + residual, 0).astype(np.float32))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("group", [1, 8])
def test_convolution_with_every_activation(activation: str, group: int, random: np.random.Generator) -> None:
    window = Window((3, 3), (6, 7), pads=[1, 1, 1, 1], group=group)
    weight, x = weights(random, 8, 8 // group * 9), inputs(random, 2, 8, 6, 7)
    low, high = {"clip": (-1.0, 2.0), "leaky_relu": (0.25, 0.0)}.get(activation, (0.75, 0.0))
    found = convolution(window, weight, 8, activation=activation, low=low, high=high).run(None, {"x": x})[0]
    close(found, activated(window.reference(x, weight), activation, low, high))


def test_convolution_of_images_of_any_size(random: np.random.Generator) -> None:
    window = Window((3, 3), (0, 0), pads=[1, 1, 1, 1], strides=[2, 2])
    weight = weights(random, 8, 4 * 9)
    made = convolution(window, weight, 4, image=("h", "w"))
    for height, width in ((1, 1), (8, 8), (5, 30), (31, 2), (8, 8)):
        x = inputs(random, 2, 4, height, width)
        np.testing.assert_array_equal(made.run(None, {"x": x})[0], window.reference(x, weight).astype(np.float32))
    if infers_shapes():
        # What is called alike must be alike: a name says how the size came to be.
        assert made.get_outputs()[0].shape == ["n", 8, "(h-1)/2+1", "(w-1)/2+1"]
        same = convolution(Window((3, 3), (0, 0), pads=[1, 1, 1, 1]), weight, 4, image=("h", 9))
        assert same.get_outputs()[0].shape == ["n", 8, "h", 9]
        unknown = convolution(Window((3, 3), (0, 0)), weight, 4, image=(None, 9))
        assert unknown.get_outputs()[0].shape in (None, [])


def test_convolution_shapes_are_inferred(random: np.random.Generator) -> None:
    window = Window((3, 5), (20, 31), pads=[1, 0, 2, 3], strides=[2, 3], dilations=[1, 2])
    made = convolution(window, weights(random, 8, 4 * 15), 4)
    x = inputs(random, 1, 4, 20, 31)
    shape = made.run(None, {"x": x})[0].shape
    assert not infers_shapes() or made.get_outputs()[0].shape == ["n", *shape[1:]]


@pytest.mark.parametrize(("values", "positions"), list(product(VALUES, POSITIONS)))
@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_gather(values: str, positions: str, kind: int, random: np.random.Generator) -> None:
    table = weights(random, 40, 24)
    one = node("SparseGather", ["w", "i"], ["y"], columns=24)
    dtype = np.int64 if kind == TensorProto.INT64 else np.int32
    for shape in ((), (0,), (1,), (3,), (2, 5), (2, 3, 4)):
        sizes = tuple(f"d{i}" for i in range(len(shape)))
        written = model([one], {"i": sizes}, ["y"], {"w": pack(table, values, positions)}, {"i": kind})
        made = session(written)
        indices = random.integers(-40, 40, shape).astype(dtype)
        np.testing.assert_array_equal(made.run(None, {"i": indices})[0], table[indices])
        if infers_shapes() and shape:
            assert made.get_outputs()[0].shape == [*sizes, 24]


def test_gather_refuses_what_is_no_row(random: np.random.Generator) -> None:
    one = node("SparseGather", ["w", "i"], ["y"], columns=24)
    made = session(model([one], {"i": ("n",)}, ["y"], {"w": pack(weights(random, 40, 24))}, {"i": TensorProto.INT64}))
    for wrong in (40, -41, 2**62, -(2**63)):
        with pytest.raises(
            Exception, match=rf"SparseGather node 'node': the index {wrong} does not lie in \[-40, 40\)"
        ):
            made.run(None, {"i": np.array([0, wrong])})
    assert made.run(None, {"i": np.array([39, -40])})[0].shape == (2, 24)


def test_a_large_gather_is_shared_out(random: np.random.Generator) -> None:
    table = weights(random, 200, 256, 0.3)
    one = node("SparseGather", ["w", "i"], ["y"], columns=256)
    made = session(model([one], {"i": ("n",)}, ["y"], {"w": pack(table)}, {"i": TensorProto.INT64}))
    indices = random.integers(0, 200, 1000)
    np.testing.assert_array_equal(made.run(None, {"i": indices})[0], table[indices])


def test_nodes_among_those_of_the_runtime(random: np.random.Generator) -> None:
    first, second = weights(random, 64, 32), weights(random, 16, 64)
    nodes = [
        node("SparseLinear", ["x", "w1"], ["h"], "first", rows=64, activation="relu"),
        onnx.helper.make_node("Mul", ["h", "half"], ["scaled"]),
        node("SparseLinear", ["scaled", "w2"], ["z"], "second", rows=16),
        onnx.helper.make_node("Softmax", ["z"], ["y"], axis=-1),
    ]
    constants = {"w1": pack(first), "w2": pack(second, "int8"), "half": np.array(0.5, np.float32)}
    made = session(model(nodes, {"x": ("n", 32)}, ["y"], constants))
    x = inputs(random, 6, 32)
    z = (np.maximum(x @ first.T, 0) * 0.5 @ second.T).astype(np.float64)
    odds = np.exp(z - z.max(axis=-1, keepdims=True))
    close(made.run(None, {"x": x})[0], odds / odds.sum(axis=-1, keepdims=True))
