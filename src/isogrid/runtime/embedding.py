"""A sparse `torch.nn.Embedding`.  For inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from isogrid import _native
from isogrid.errors import UnsupportedError, UsageError
from isogrid.runtime import operations
from isogrid.runtime.matrix import SparseMatrix, Values


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
        buffers: dict[str, Tensor | None] = {"codes": None, **operations.buffers_of(table)}
        if coded:
            scales = buffers["scales"]
            buffers = {**dict.fromkeys(buffers), "codes": torch.from_numpy(_codes(table)), "scales": scales}
        for name, buffer in buffers.items():
            operations.register(self, name, buffer)
        self._operation: Any = None
        self.eval()

    @classmethod
    def from_module(cls, module: nn.Embedding, values: Values = "fp32") -> Self:
        """The table of ``module``, which is not changed.

        ``values`` is how weights are stored: ``"fp32"``, ``"fp16"`` or ``"int8"`` with a scale a row.

        Raises:
            TrainingError: a weight that is to be rounded is not finite.
            UnsupportedError: ``module`` has a ``max_norm``, which changes the table while it is read, or a weight is
                beyond the largest fp16 number.
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
        return _matrix_of(self.num_embeddings, self.embedding_dim, self._stored())

    def _stored(self) -> list[Tensor | None]:
        return [self.codes, self.row_begin, self.column, self.values, self.scales]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name is torch's
        """Rows by their numbers: int64 or int32 of any shape to float32 ``[*input.shape, embedding_dim]``.

        Raises:
            UnsupportedError: not int64 or int32 on the CPU.
            UsageError: a number that is not that of a row.
        """
        return _look_up(self, input) if torch.compiler.is_compiling() else self._forward(input)

    def _forward(self, indices: Tensor) -> Tensor:
        operations.refuse_jit("SparseEmbedding")
        if self._operation is None:
            self._operation = _make(self.num_embeddings, self.embedding_dim, self._stored())
        return _run(self._operation, self.num_embeddings, self.embedding_dim, indices)


def _matrix_of(rows: int, columns: int, stored: Sequence[Tensor | None]) -> SparseMatrix:
    _, row_begin, column, values, scales = stored
    assert row_begin is not None
    assert column is not None
    assert values is not None
    return operations.matrix_of(rows, columns, row_begin, column, values, scales)


def _make(rows: int, columns: int, stored: Sequence[Tensor | None]) -> _native.Embedding:
    codes, *_, scales = stored
    if codes is not None:
        assert scales is not None
        return _native.Embedding(codes.numpy(), scales.numpy())
    m = _matrix_of(rows, columns, stored)
    return _native.Embedding(m.rows, m.columns, m.row_begin, m.column, m.values, m.scales)


def _run(operation: _native.Embedding, rows: int, columns: int, indices: Tensor) -> Tensor:
    if indices.dtype not in (torch.int64, torch.int32) or indices.device.type != "cpu":
        raise UnsupportedError(
            f"SparseEmbedding got indices of {indices.dtype} on {indices.device}; accepted are int64 and "
            "int32 on the CPU."
        )
    numbers = indices.to(torch.int64).contiguous()
    y = torch.empty((*indices.shape, columns), dtype=torch.float32)
    try:
        operation.run(numbers.data_ptr(), numbers.numel(), y.data_ptr())
    except ValueError:
        low, high = (int(bound) for bound in torch.aminmax(numbers))
        raise UsageError(f"SparseEmbedding got indices from {low} to {high}; accepted are 0 to {rows - 1}.") from None
    return y


# What `torch.compile` and `torch.export` see.
operations.LIBRARY.define("sparse_embedding(Tensor indices, Tensor?[] stored, int rows, int columns) -> Tensor")


def _embedding(indices: Tensor, stored: Sequence[Tensor | None], rows: int, columns: int) -> Tensor:
    weights = next(tensor for tensor in (stored[0], stored[3]) if tensor is not None)
    made = operations.MADE.get(weights, (rows, columns), lambda: _make(rows, columns, stored))
    return _run(made, rows, columns, indices)


operations.LIBRARY.impl("sparse_embedding", _embedding, "CPU")
torch.library.register_fake(
    "isogrid::sparse_embedding",
    lambda indices, _stored, _rows, columns: indices.new_empty((*indices.shape, columns), dtype=torch.float32),
    lib=operations.LIBRARY,
)


def _look_up(module: SparseEmbedding, indices: Tensor) -> Tensor:
    looked_up: Tensor = torch.ops.isogrid.sparse_embedding(
        indices, module._stored(), module.num_embeddings, module.embedding_dim
    )
    return looked_up


def _codes(table: SparseMatrix) -> np.ndarray[Any, np.dtype[np.int8]]:
    """The codes of an int8 table, zeros among them."""
    codes = np.zeros((table.rows, table.columns), np.int8)
    codes[np.repeat(np.arange(table.rows), np.diff(table.row_begin)), table.column] = table.values
    return codes
