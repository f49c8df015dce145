"""The native operations as PyTorch operators."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from isogrid.errors import UnsupportedError, UsageError
from isogrid.runtime import operations
from isogrid.runtime.epilogue import Epilogue
from isogrid.runtime.layers import SparseConv2d, SparseLinear
from isogrid.runtime.matrix import VALUES, SparseMatrix


def sparse_weights(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(torch.rand_like(parameter) > 0.6)
    return module.eval()


def linear_arguments(values: str = "fp32", *, residual: bool = False, batch: tuple[int, ...] = (3,)) -> tuple[Any, ...]:
    layer = SparseLinear.from_module(sparse_weights(nn.Linear(10, 6)), values, epilogue=Epilogue("leaky_relu", 0.1))
    return (
        torch.randn(*batch, 10), torch.randn(*batch, 6) if residual else None, layer.row_begin, layer.column,
        layer.values, layer.scales, layer.bias, 6, 10, "leaky_relu", 0.1, 0.0, False,
    )  # fmt: skip


GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"stride": (2, 1), "padding": (1, 2)},
    {"dilation": (1, 2), "groups": 2, "padding": "same"},
    {"stride": 3, "dilation": 2, "padding": 2},
]


def conv_arguments(values: str = "fp32", *, size: tuple[int, int] = (9, 8), **options: Any) -> tuple[Any, ...]:
    layer = SparseConv2d.from_module(sparse_weights(nn.Conv2d(4, 6, (3, 2), **options)), values)
    return (
        torch.randn(2, 4, *size), None, layer.row_begin, layer.column, layer.values, layer.scales, layer.bias, 6, 4,
        "none", 0.0, 0.0, layer.groups, layer.kernel, layer.stride, layer.padding, layer.dilation,
    )  # fmt: skip


def as_fake(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    mode = FakeTensorMode()
    return tuple(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("values", VALUES)
def test_opcheck_of_the_linear_operator(values: str, residual: bool) -> None:
    with torch.no_grad():
        torch.library.opcheck(
            torch.ops.isogrid.sparse_linear.default,
            linear_arguments(values, residual=residual),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("options", GEOMETRIES)
def test_opcheck_of_the_convolution(options: dict[str, Any]) -> None:
    with torch.no_grad():
        torch.library.opcheck(
            torch.ops.isogrid.sparse_conv2d.default,
            conv_arguments("int8", **options),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("batch", [(), (1,), (0,), (3,), (2, 5)])
def test_fake_linear_shapes_are_the_real_ones(batch: tuple[int, ...]) -> None:
    arguments = linear_arguments(batch=batch)
    real = torch.ops.isogrid.sparse_linear(*arguments)
    fake = torch.ops.isogrid.sparse_linear(*as_fake(arguments))
    assert fake.shape == real.shape == (*batch, 6)
    assert fake.dtype == real.dtype


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("size", [(9, 8), (5, 13), (7, 7)])
@pytest.mark.parametrize("options", GEOMETRIES)
def test_fake_convolution_shapes_are_the_real_ones(options: dict[str, Any], size: tuple[int, int]) -> None:
    arguments = conv_arguments(size=size, **options)
    real = torch.ops.isogrid.sparse_conv2d(*arguments)
    fake = torch.ops.isogrid.sparse_conv2d(*as_fake(arguments))
    assert fake.shape == real.shape
    assert fake.shape == nn.Conv2d(4, 6, (3, 2), **options)(arguments[0]).shape


@pytest.mark.parametrize("values", VALUES)
def test_buffers_and_matrices_are_inverse(values: str) -> None:
    matrix = SparseMatrix.from_dense(torch.randn(5, 7).numpy(), values)
    buffers = operations.buffers_of(matrix)
    again = operations.matrix_of(5, 7, **buffers)
    assert (again.to_dense() == matrix.to_dense()).all()
    for name in ("row_begin", "column", "values"):
        buffer = buffers[name]
        assert buffer is not None
        assert buffer.data_ptr() == getattr(again, name).ctypes.data == getattr(matrix, name).ctypes.data


@pytest.mark.parametrize("what", ["input", "residual"])
def test_what_cannot_be_computed_is_refused(what: str) -> None:
    def call(bad: Any) -> None:
        arguments = list(linear_arguments(residual=True))
        arguments[what == "residual"] = bad(arguments[what == "residual"])
        torch.ops.isogrid.sparse_linear(*arguments)

    article = "an input" if what == "input" else "a residual"
    for dtype in (torch.float64, torch.float16):
        with pytest.raises(UnsupportedError, match=f"^A sparse layer got {article} of {dtype} on cpu; accepted is"):
            call(lambda x, dtype=dtype: x.to(dtype))
    with pytest.raises(UsageError, match=f"^A sparse layer got {article} of shape"):
        call(lambda x: x[:, :5])


def test_inputs_that_require_a_gradient_are_refused_unless_gradients_are_off() -> None:
    layer = SparseLinear.from_module(sparse_weights(nn.Linear(10, 6)))
    x = torch.randn(3, 10, requires_grad=True)
    with pytest.raises(UnsupportedError, match=r"^A sparse layer got an input that requires a gradient; .*no_grad"):
        layer(x)
    with torch.no_grad():
        layer(x)


def test_images_that_are_too_small_are_refused() -> None:
    arguments = list(conv_arguments())
    arguments[0] = torch.randn(2, 4, 2, 8)
    with pytest.raises(UsageError, match=r"^A sparse convolution got images of 2 x 8: .*\.$"):
        torch.ops.isogrid.sparse_conv2d(*arguments)
    arguments[0] = torch.randn(2, 3, 9, 8)
    with pytest.raises(UsageError, match=r"accepted is \[images, 4, height, width\]\.$"):
        torch.ops.isogrid.sparse_conv2d(*arguments)


def test_operations_are_made_once_and_again_when_weights_change() -> None:
    made = operations._Made()
    values, count = torch.ones(3), []

    def get(tensor: Tensor, *settings: Any) -> Any:
        return made.get(tensor, settings, lambda: count.append(1) or object())

    first = get(values, 1)
    assert get(values, 1) is first
    assert get(values, 2) is not first
    second = get(values, 2)
    values.add_(1)
    assert get(values, 2) is not second
    assert len(count) == 3
    with torch.inference_mode():
        frozen = torch.ones(3)
    assert get(frozen, 1) is get(frozen, 1)
    del values, frozen
    gc.collect()
    assert made._made == {}
