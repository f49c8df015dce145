"""Gradients and optimiser states of the rows that a step touches, as ``nn.Embedding(sparse=True)`` gives them.

They are sparse COO tensors over the first axis: rows, each a dense vector, and a row may be listed more than once.
What is done here costs in proportion to the rows that are listed, whatever the size of the table.
"""

from __future__ import annotations

from torch import Tensor


def clear_(tensor: Tensor, where: Tensor) -> None:
    """Zeros in a gradient or in an optimiser's state of a weight, in place; it may be dense, and is then passed over.

    Args:
        tensor: of the weight's shape.
        where: bool of that shape, dense.

    >>> import torch
    >>> momentum = torch.tensor([[1.0, 2.0], [0.0, 0.0]]).to_sparse(1)
    >>> clear_(momentum, torch.tensor([[True, False], [False, False]]))
    >>> momentum.to_dense().tolist()
    [[0.0, 2.0], [0.0, 0.0]]
    """
    if tensor.is_sparse:
        tensor._values().masked_fill_(where.index_select(0, tensor._indices()[0]), 0)
    else:
        tensor.masked_fill_(where, 0)


def clear_rows_(weight: Tensor, where: Tensor, touched: Tensor) -> None:
    """Zeros in a dense `weight` at `where`, in place, looking only at the rows that the sparse `touched` lists.

    >>> import torch
    >>> weight, touched = torch.ones(3, 2), torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.0, 0.0]]).to_sparse(1)
    >>> clear_rows_(weight, torch.tensor([[True, True], [True, False], [False, False]]), touched)
    >>> weight.tolist()
    [[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    """
    rows = touched._indices()[0]
    held = weight.index_select(0, rows).masked_fill_(where.index_select(0, rows), 0)
    weight.index_copy_(0, rows, held)


def is_zero(tensor: Tensor) -> bool:
    """Whether all of it is zero, dense or sparse."""
    return not bool((tensor._values() if tensor.is_sparse else tensor).any())
