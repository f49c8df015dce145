"""The native operations as PyTorch operators: what `torch.compile` and `torch.export` see of a sparse layer.

Eagerly a layer calls the native core itself, since going through the dispatcher costs more than a small product.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isogrid import _native
from isogrid.errors import UnsupportedError, UsageError
from isogrid.runtime.epilogue import Epilogue
from isogrid.runtime.matrix import SparseMatrix

_native.find_torch_threads()


def matrix_of(
    rows: int, columns: int, row_begin: Tensor, column: Tensor, values: Tensor, scales: Tensor | None
) -> SparseMatrix:
    """The matrix in a layer's buffers, sharing their memory."""
    numbers = values.view(torch.int16).numpy().view(np.uint16) if values.dtype == torch.float16 else values.numpy()
    return SparseMatrix(
        rows, columns, row_begin.numpy(), column.numpy(), numbers, None if scales is None else scales.numpy()
    )


def buffers_of(matrix: SparseMatrix) -> dict[str, Tensor | None]:
    """The buffers that hold a matrix: the inverse of `matrix_of`."""
    values = torch.from_numpy(matrix.values.view(np.int16) if matrix.values.dtype == np.uint16 else matrix.values)
    return {
        "row_begin": torch.from_numpy(matrix.row_begin),
        "column": torch.from_numpy(matrix.column),
        "values": values.view(torch.float16) if matrix.values.dtype == np.uint16 else values,
        "scales": None if matrix.scales is None else torch.from_numpy(matrix.scales),
    }


def is_traced() -> bool:
    """Whether a graph is being recorded, which is to hold the operators below and not what the native core returned."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def refuse_jit(who: str) -> None:
    """For operators of lists of tensors, which `torch.jit.trace` cannot record; it would take results for constants.

    Raises:
        UnsupportedError: it is tracing.
    """
    if is_traced():
        raise UnsupportedError(
            f"{who} got a call in torch.jit.trace (or torch.onnx.export with dynamo=False), which cannot record it; "
            "accepted are torch.export and torch.compile."
        )


def register(module: nn.Module, name: str, buffer: Tensor | None) -> None:
    """A buffer of a module, or an attribute that is None: `torch.export` miscounts buffers that are None (2.13)."""
    if buffer is None:
        setattr(module, name, None)
    else:
        module.register_buffer(name, buffer)


def make_linear(matrix: SparseMatrix, bias: Tensor | None, epilogue: Epilogue, skip_zeros: bool) -> _native.Linear:
    """A native linear operation; it copies what it is given."""
    return _native.Linear(
        matrix.rows, matrix.columns, matrix.row_begin, matrix.column, matrix.values, matrix.scales,
        None if bias is None else bias.numpy(), epilogue.code, epilogue.low, epilogue.high, skip_zeros,
    )  # fmt: skip


def make_convolution(
    matrix: SparseMatrix,
    bias: Tensor | None,
    epilogue: Epilogue,
    groups: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> _native.Convolution:
    """A native convolution; ``padding`` is top, left, bottom, right."""
    channels = matrix.columns // (kernel[0] * kernel[1])
    return _native.Convolution(
        matrix.rows, matrix.columns, matrix.row_begin, matrix.column, matrix.values, matrix.scales,
        None if bias is None else bias.numpy(), epilogue.code, epilogue.low, epilogue.high, groups, channels,
        tuple(kernel), tuple(stride), tuple(padding), tuple(dilation),
    )  # fmt: skip


def _checked(x: Tensor, what: str) -> Tensor:
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise UnsupportedError(f"A sparse layer got {what} of {x.dtype} on {x.device}; accepted is float32 on the CPU.")
    if x.requires_grad and torch.is_grad_enabled():
        raise UnsupportedError(
            f"A sparse layer got {what} that requires a gradient; it is for inference, under torch.no_grad()."
        )
    return x if x.is_contiguous() else x.contiguous()


def _checked_residual(residual: Tensor | None, y: Tensor) -> int:
    if residual is None:
        return 0
    if residual.shape != y.shape:
        raise UsageError(
            f"A sparse layer got a residual of shape {tuple(residual.shape)}; accepted is {tuple(y.shape)}, the shape "
            "of its result."
        )
    return residual.data_ptr()


def run_linear(operation: _native.Linear, rows: int, columns: int, x: Tensor, residual: Tensor | None) -> Tensor:
    """``x`` of shape ``[..., columns]`` times the matrix: ``[..., rows]``."""
    x = _checked(x, "an input")
    shape = x.shape
    if not shape or shape[-1] != columns:
        raise UsageError(f"A sparse layer got an input of shape {tuple(shape)}; accepted is [..., {columns}].")
    y = x.new_empty((*shape[:-1], rows))
    if residual is not None:
        residual = _checked(residual, "a residual")
    operation.run(x.data_ptr(), x.numel() // columns, _checked_residual(residual, y), y.data_ptr())
    return y


def run_convolution(
    operation: _native.Convolution, rows: int, channels: int, x: Tensor, residual: Tensor | None
) -> Tensor:
    """``x`` of shape ``[images, channels, height, width]``; ``channels`` of all groups together."""
    x = _checked(x, "an input")
    shape = x.shape
    if len(shape) != 4 or shape[1] != channels:
        raise UsageError(
            f"A sparse convolution got an input of shape {tuple(shape)}; accepted is [images, {channels}, height, "
            "width]."
        )
    images, _, height, width = shape
    try:
        out_height, out_width = operation.output_size(height, width)
    except ValueError as problem:
        raise UsageError(f"A sparse convolution got images of {height} x {width}: {problem}.") from None
    y = x.new_empty((images, rows, out_height, out_width))
    if residual is not None:
        residual = _checked(residual, "a residual")
    operation.run(x.data_ptr(), images, height, width, _checked_residual(residual, y), y.data_ptr())
    return y


def run_max_pool(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    """The largest value of each window of ``[images, channels, height, width]``, as `max_pool2d` has it."""
    x = _checked(x, "an input")
    images, channels, height, width = x.shape
    try:
        size = _native.max_pool_size(height, width, kernel, stride, padding, dilation)
    except ValueError as problem:
        raise UsageError(f"A max pooling got images of {height} x {width}: {problem}.") from None
    y = x.new_empty((images, channels, *size))
    _native.max_pool(x.data_ptr(), images * channels, height, width, kernel, stride, padding, dilation, y.data_ptr())
    return y


class _Made:
    """Native operations by the tensor of values that they were made from, as long as it lives unchanged."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[weakref.ref[Tensor], int, tuple[Any, ...], Any]] = {}

    def get(self, values: Tensor, settings: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        key = id(values)
        known = self._made.get(key)
        version = -1 if values.is_inference() else values._version
        if known is not None and known[0]() is values and known[1] == version and known[2] == settings:
            return known[3]
        operation = make()
        forget = self._made.pop
        self._made[key] = (
            weakref.ref(values, lambda _, key=key: forget(key, None)),  # type: ignore[misc]
            version,
            settings,
            operation,
        )
        return operation


MADE = _Made()
LIBRARY = torch.library.Library("isogrid", "FRAGMENT")
LIBRARY.define(
    "sparse_linear(Tensor x, Tensor? residual, Tensor row_begin, Tensor column, Tensor values, Tensor? scales, "
    "Tensor? bias, int rows, int columns, str activation, float low, float high, bool skip_zeros) -> Tensor"
)
LIBRARY.define(
    "sparse_conv2d(Tensor x, Tensor? residual, Tensor row_begin, Tensor column, Tensor values, Tensor? scales, "
    "Tensor? bias, int rows, int channels, str activation, float low, float high, int groups, int[] kernel, "
    "int[] stride, int[] padding, int[] dilation) -> Tensor"
)


def _linear(
    x: Tensor, residual: Tensor | None, row_begin: Tensor, column: Tensor, values: Tensor, scales: Tensor | None,
    bias: Tensor | None, rows: int, columns: int, activation: str, low: float, high: float, skip_zeros: bool,
) -> Tensor:  # fmt: skip
    def make() -> Any:
        matrix = matrix_of(rows, columns, row_begin, column, values, scales)
        return make_linear(matrix, bias, Epilogue(activation, low, high), skip_zeros)

    operation = MADE.get(values, (rows, columns, activation, low, high, skip_zeros), make)
    return run_linear(operation, rows, columns, x, residual)


def _linear_shape(
    x: Tensor, residual: Tensor | None, row_begin: Tensor, column: Tensor, values: Tensor, scales: Tensor | None,
    bias: Tensor | None, rows: int, *_: Any,
) -> Tensor:  # fmt: skip
    return x.new_empty((*x.shape[:-1], rows))


def _conv2d(
    x: Tensor, residual: Tensor | None, row_begin: Tensor, column: Tensor, values: Tensor, scales: Tensor | None,
    bias: Tensor | None, rows: int, channels: int, activation: str, low: float, high: float, groups: int,
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    def make() -> Any:
        matrix = matrix_of(rows, channels // groups * kernel[0] * kernel[1], row_begin, column, values, scales)
        return make_convolution(
            matrix, bias, Epilogue(activation, low, high), groups, kernel, stride, padding, dilation
        )

    settings = (rows, channels, activation, low, high, groups, *kernel, *stride, *padding, *dilation)
    operation = MADE.get(values, settings, make)
    return run_convolution(operation, rows, channels, x, residual)


def _conv2d_shape(
    x: Tensor, residual: Tensor | None, row_begin: Tensor, column: Tensor, values: Tensor, scales: Tensor | None,
    bias: Tensor | None, rows: int, channels: int, activation: str, low: float, high: float, groups: int,
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    def size(axis: int) -> Any:
        room = x.shape[2 + axis] + padding[axis] + padding[2 + axis] - dilation[axis] * (kernel[axis] - 1) - 1
        return room // stride[axis] + 1

    return x.new_empty((x.shape[0], rows, size(0), size(1)))


LIBRARY.impl("sparse_linear", _linear, "CPU")
LIBRARY.impl("sparse_conv2d", _conv2d, "CPU")
torch.library.register_fake("isogrid::sparse_linear", _linear_shape, lib=LIBRARY)
torch.library.register_fake("isogrid::sparse_conv2d", _conv2d_shape, lib=LIBRARY)
