"""A sparse `torch.nn.Embedding`.  For inference."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from isogrid.errors import UnsupportedError, UsageError
from isogrid.runtime import operations
from isogrid.runtime.matrix import SparseMatrix, Values

_native: Any = import_module("isogrid._native")
_native.find_torch_threads()


class SparseEmbedding(nn.Module):
    """`torch.nn.Embedding` with a table whose rows are stored sparse, or as int8 codes where these take less room.

    The buffers are the truth, as in `isogrid.runtime.layers.SparseLayer`: those of a sparse matrix, or ``codes`` (int8
    ``[num_embeddings, embedding_dim]``) and ``scales`` (float32 ``[num_embeddings]``).

    >>> dense = nn.Embedding(10, 4)
    >>> with torch.no_grad():
    ...     _ = dense.weight[:, 1:].zero_()
    ...     torch.equal(SparseEmbedding.from_module(dense)(torch.tensor([[3, 9]])), dense(torch.tensor([[3, 9]])))
    True
    """

    row_begin: Tensor | None
    column: Tensor | None
    values: Tensor | None
    scales: Tensor | None
    codes: Tensor | None

    def __init__(self, table: SparseMatrix) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.rows, table.columns
        coded = table.scales is not None and table.bytes > table.rows * table.columns + table.scales.nbytes
        buffers = dict.fromkeys(("row_begin", "column", "values", "scales")) if coded else operations.buffers_of(table)
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        self.register_buffer("codes", torch.from_numpy(_codes(table)) if coded else None)
        if coded:
            self.scales = torch.from_numpy(table.scales)
        self._operation: Any = None
        self.eval()

    @classmethod
    def from_module(cls, module: nn.Embedding, values: Values = "fp32") -> Self:
        """The table of ``module``, which is not changed.

        ``values`` is how weights are stored: ``"fp32"``, ``"fp16"`` or ``"int8"`` with a scale a row.

        Raises:
            UnsupportedError: ``module`` has a ``max_norm``, which changes the table while it is read.
            UsageError: ``module`` is of another kind, or unknown values.
        """
        if not isinstance(module, nn.Embedding):
            raise UsageError(f"SparseEmbedding got a {type(module).__name__}; accepted is a torch.nn.Embedding.")
        if module.max_norm is not None:
            raise UnsupportedError(f"SparseEmbedding got max_norm={module.max_norm}; accepted is None.")
        return cls(SparseMatrix.from_dense(module.weight.detach().cpu().float().numpy(), values))

    def dense(self) -> Tensor:
        """The table as float32, ``[num_embeddings, embedding_dim]``."""
        if self.codes is not None:
            assert self.scales is not None
            return self.codes.float() * self.scales[:, None]
        return torch.from_numpy(self._matrix().to_dense())

    @property
    def sparsity(self) -> float:
        """Share of weights that are exactly zero, those that are stored as a zero among them."""
        stored = self.values if self.codes is None else self.codes
        assert stored is not None
        return 1 - int(torch.count_nonzero(stored)) / (self.num_embeddings * self.embedding_dim)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        stored = self.values if self.codes is None else self.codes
        assert stored is not None
        dtype = {torch.float32: "fp32", torch.float16: "fp16", torch.int8: "int8"}[stored.dtype]
        layout = ", dense" if self.codes is not None else ""
        return f"{self.num_embeddings}, {self.embedding_dim}, sparsity={self.sparsity:.3f}, {dtype}{layout}"

    def train(self, mode: bool = True) -> Self:
        """Refused for ``True``: there is no gradient to train by.

        Raises:
            UnsupportedError: ``mode`` is true.
        """
        if mode:
            raise UnsupportedError("SparseEmbedding has no training mode; train the original and make it sparse again.")
        return super().train(False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_operation": None}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._operation = None

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        return self

    def _matrix(self) -> SparseMatrix:
        assert self.row_begin is not None
        assert self.column is not None
        assert self.values is not None
        return operations.matrix_of(
            self.num_embeddings, self.embedding_dim, self.row_begin, self.column, self.values, self.scales
        )

    def _make(self) -> Any:
        if self.codes is not None:
            assert self.scales is not None
            return _native.Embedding(self.codes.numpy(), self.scales.numpy())
        m = self._matrix()
        return _native.Embedding(m.rows, m.columns, m.row_begin, m.column, m.values, m.scales)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name is torch's
        """Rows by their numbers: int64 or int32 of any shape to float32 ``[*input.shape, embedding_dim]``.

        Raises:
            UnsupportedError: not int64 or int32 on the CPU.
            UsageError: a number that is not that of a row.
        """
        return _uncompiled(self, input) if torch.compiler.is_compiling() else self._forward(input)

    def _forward(self, indices: Tensor) -> Tensor:
        if indices.dtype not in (torch.int64, torch.int32) or indices.device.type != "cpu":
            raise UnsupportedError(
                f"SparseEmbedding got indices of {indices.dtype} on {indices.device}; accepted are int64 and "
                "int32 on the CPU."
            )
        if self._operation is None:
            self._operation = self._make()
        numbers = indices.to(torch.int64).contiguous()
        y = torch.empty((*indices.shape, self.embedding_dim), dtype=torch.float32)
        try:
            self._operation.run(numbers.data_ptr(), numbers.numel(), y.data_ptr())
        except ValueError:
            low, high = (int(bound) for bound in torch.aminmax(numbers))
            raise UsageError(
                f"SparseEmbedding got indices from {low} to {high}; accepted are 0 to {self.num_embeddings - 1}."
            ) from None
        return y


# In a compiled model it is called as it is.
_uncompiled: Any = torch.compiler.disable(SparseEmbedding._forward)


def _codes(table: SparseMatrix) -> np.ndarray[Any, np.dtype[np.int8]]:
    """The codes of an int8 table, zeros among them."""
    codes = np.zeros((table.rows, table.columns), np.int8)
    codes[np.repeat(np.arange(table.rows), np.diff(table.row_begin)), table.column] = table.values
    return codes
