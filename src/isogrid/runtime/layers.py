"""Sparse layers as modules: weights in buffers, products on the native kernels.  For inference."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.errors import UnsupportedError
from isogrid.runtime import operations
from isogrid.runtime.epilogue import Epilogue
from isogrid.runtime.matrix import SparseMatrix, Values


class SparseLayer(nn.Module):
    """A sparse matrix, a bias and an epilogue.

    The buffers are the truth: they travel in `state_dict`, copies and pickles.  The native operation is made from them
    when it is first needed, and anew when they have been loaded.  Weights stay float32, float16 or int8 on the CPU
    whatever the module is moved to.
    """

    row_begin: Tensor
    column: Tensor
    values: Tensor
    scales: Tensor | None
    bias: Tensor | None

    def __init__(self, matrix: SparseMatrix, bias: Tensor | None, epilogue: Epilogue | None) -> None:
        super().__init__()
        self.rows, self.columns = matrix.rows, matrix.columns
        self.epilogue = epilogue or Epilogue()
        for name, buffer in operations.buffers_of(matrix).items():
            operations.register(self, name, buffer)
        operations.register(self, "bias", None if bias is None else bias.detach().float().clone())
        self._native: Any = None
        self.eval()

    @property
    def matrix(self) -> SparseMatrix:
        """The weights as arrays, sharing the buffers' memory."""
        return operations.matrix_of(self.rows, self.columns, self.row_begin, self.column, self.values, self.scales)

    @property
    def sparsity(self) -> float:
        """Share of weights that are exactly zero, those that are stored as a zero among them."""
        return 1 - int(torch.count_nonzero(self.values)) / (self.rows * self.columns)

    @abstractmethod
    def _make(self) -> Any: ...

    def _operation(self) -> Any:
        if self._native is None:
            self._native = self._make()
        return self._native

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_native": None}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._native = None

    def _apply(self, fn: Any, recurse: bool = True) -> SparseLayer:
        return self

    def train(self, mode: bool = True) -> SparseLayer:
        """Refused for ``True``: there is no gradient to train by.

        Raises:
            UnsupportedError: ``mode`` is true.
        """
        if mode:
            raise UnsupportedError("A sparse layer has no training mode; train the original and compile it.")
        super().train(False)
        return self

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        dtype = {torch.float32: "fp32", torch.float16: "fp16", torch.int8: "int8"}[self.values.dtype]
        parts = [f"{self.columns} -> {self.rows}", f"sparsity={self.sparsity:.3f}", dtype]
        if self.epilogue.activation != "none":
            parts.append(str(self.epilogue))
        return ", ".join(parts)


def _is_plain(x: Any) -> bool:
    """Whether `x` is a tensor to compute with, and not one that stands for others in a trace."""
    return type(x) in (Tensor, nn.Parameter) and not operations.is_traced()


class SparseLinear(SparseLayer):
    """``activation(x W' + bias + residual)`` for ``x`` of shape ``[..., columns]``; float32.

    With ``skip_zeros`` a single token most of whose activations are zero costs less, for the memory of a second layout.

    >>> dense = torch.nn.Linear(4, 3).eval()
    >>> with torch.no_grad():
    ...     _ = dense.weight[:, 1:].zero_()
    ...     sparse = SparseLinear.from_module(dense)
    ...     torch.allclose(sparse(torch.ones(2, 4)), dense(torch.ones(2, 4)))
    True
    """

    def __init__(
        self,
        matrix: SparseMatrix,
        bias: Tensor | None = None,
        epilogue: Epilogue | None = None,
        *,
        skip_zeros: bool = False,
    ) -> None:
        super().__init__(matrix, bias, epilogue)
        self.skip_zeros = skip_zeros

    @classmethod
    def from_module(
        cls, module: nn.Linear, values: Values = "fp32", *, name: str = "weight", **options: Any
    ) -> SparseLinear:
        """The layer with the weights of ``module``, which is not changed; ``name`` is what an error calls them.

        Raises:
            TrainingError, UnsupportedError: a weight cannot be rounded.
        """
        return cls(SparseMatrix.from_dense(_array(module.weight), values, name=name), module.bias, **options)

    def _make(self) -> Any:
        return operations.make_linear(self.matrix, self.bias, self.epilogue, self.skip_zeros)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``[..., columns]`` to ``[..., rows]``; ``residual`` has the shape of the result."""
        if _is_plain(x):
            return operations.run_linear(self._operation(), self.rows, self.columns, x, residual)
        e = self.epilogue
        result: Tensor = torch.ops.isogrid.sparse_linear(
            x, residual, self.row_begin, self.column, self.values, self.scales, self.bias, self.rows, self.columns,
            e.activation, e.low, e.high, self.skip_zeros,
        )  # fmt: skip
        return result


class SparseConv2d(SparseLayer):
    """A convolution of images ``[images, channels, height, width]``, float32, with any stride, dilation and groups.

    ``padding`` is top, left, bottom, right.  The matrix has a row for each output channel, and columns in the order
    channel of the group, kernel row, kernel column.

    >>> dense = torch.nn.Conv2d(2, 3, 3, padding=1).eval()
    >>> x = torch.ones(1, 2, 5, 5)
    >>> with torch.no_grad():
    ...     sparse = SparseConv2d.from_module(dense)
    ...     torch.allclose(sparse(x), dense(x), atol=1e-5)
    True
    """

    def __init__(
        self,
        matrix: SparseMatrix,
        bias: Tensor | None = None,
        epilogue: Epilogue | None = None,
        *,
        channels: int,
        kernel: Sequence[int],
        groups: int = 1,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilation: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__(matrix, bias, epilogue)
        self.channels, self.groups, self.kernel = channels, groups, tuple(kernel)
        self.stride, self.padding, self.dilation = tuple(stride), tuple(padding), tuple(dilation)

    @classmethod
    def from_module(
        cls, module: nn.Conv2d, values: Values = "fp32", *, name: str = "weight", **options: Any
    ) -> SparseConv2d:
        """The layer with the weights of ``module``, which is not changed; ``name`` is what an error calls them.

        Raises:
            TrainingError: a weight that is to be rounded is not finite.
            UnsupportedError: padding that is not zeros, or a weight beyond the largest fp16 number.
        """
        if module.padding_mode != "zeros":
            raise UnsupportedError(f"A sparse convolution got padding {module.padding_mode!r}; accepted is 'zeros'.")
        padding = same_padding(module.kernel_size, module.dilation) if module.padding == "same" else module.padding
        if isinstance(padding, str):
            padding = (0, 0)
        return cls(
            SparseMatrix.from_dense(_array(module.weight.flatten(1)), values, name=name), module.bias,
            channels=module.in_channels, kernel=module.kernel_size, groups=module.groups, stride=module.stride,
            padding=padding if len(padding) == 4 else (*padding, *padding), dilation=module.dilation, **options,
        )  # fmt: skip

    def _make(self) -> Any:
        return operations.make_convolution(
            self.matrix, self.bias, self.epilogue, self.groups, self.kernel, self.stride, self.padding, self.dilation
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``[images, channels, height, width]`` to ``[images, rows, ...]``; ``residual`` has that shape too."""
        if _is_plain(x):
            if x.dim() == 3:  # one image, as nn.Conv2d takes it too
                return self.forward(x[None], None if residual is None else residual[None])[0]
            return operations.run_convolution(self._operation(), self.rows, self.channels, x, residual)
        e = self.epilogue
        result: Tensor = torch.ops.isogrid.sparse_conv2d(
            x, residual, self.row_begin, self.column, self.values, self.scales, self.bias, self.rows, self.channels,
            e.activation, e.low, e.high, self.groups, self.kernel, self.stride, self.padding, self.dilation,
        )  # fmt: skip
        return result


class MaxPool2d(nn.Module):
    """Max pooling of ``[images, channels, height, width]``, float32, by the native kernels.

    PyTorch's own takes one element at a time where channels do not come last, longer than a sparse convolution.
    """

    def __init__(
        self, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
    ) -> None:
        super().__init__()
        self.settings: Any = tuple((axes[0], axes[-1]) for axes in (kernel, stride, padding, dilation))

    def forward(self, x: Tensor) -> Tensor:
        """The largest value of each window."""
        if _is_plain(x) and not x.requires_grad:
            return operations.run_max_pool(x, *self.settings)
        pooled: Tensor = nn.functional.max_pool2d(x, *self.settings)
        return pooled

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return "kernel={}, stride={}, padding={}, dilation={}".format(*self.settings)


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Top, left, bottom, right of ``padding="same"``: the odd one goes to the end, as in `torch.nn.functional`."""
    total = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    return (*(t // 2 for t in total), *(t - t // 2 for t in total))


def _array(weight: Tensor) -> Any:
    return weight.detach().cpu().float().numpy()
