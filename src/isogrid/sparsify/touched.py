"""Gradients and optimiser states of the rows that a step touches, as ``nn.Embedding(sparse=True)`` gives them.

They are sparse COO tensors over the first axis: rows, each a dense vector, and a row may be listed more than once.
What is done here costs in proportion to the rows that are listed, whatever the size of the table.
"""

from __future__ import annotations

from torch import Tensor

from isogrid.masks import zero_pruned_


def keep_(tensor: Tensor, mask: Tensor) -> None:
    """Zeros in a gradient or in an optimiser's state of a weight, in place, wherever `mask` is False.

    Args:
        tensor: of the weight's shape, sparse over the rows or dense.
        mask: bool of that shape, dense.

    >>> import torch
    >>> momentum = torch.tensor([[1.0, 2.0], [0.0, 0.0]]).to_sparse(1)
    >>> keep_(momentum, torch.tensor([[False, True], [True, True]]))
    >>> momentum.to_dense().tolist()
    [[0.0, 2.0], [0.0, 0.0]]
    """
    if tensor.is_sparse:
        zero_pruned_(tensor._values(), mask.index_select(0, tensor._indices()[0]))
    else:
        zero_pruned_(tensor, mask)


def keep_rows_(weight: Tensor, mask: Tensor, touched: Tensor) -> None:
    """Zeros in a dense `weight` where `mask` is False, in place, only in the rows that the sparse `touched` lists.

    >>> import torch
    >>> weight, touched = torch.ones(3, 2), torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.0, 0.0]]).to_sparse(1)
    >>> keep_rows_(weight, torch.tensor([[False, False], [False, True], [True, True]]), touched)
    >>> weight.tolist()
    [[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    """
    rows = touched._indices()[0]
    held = zero_pruned_(weight.index_select(0, rows), mask.index_select(0, rows))
    weight.index_copy_(0, rows, held)


def is_zero(tensor: Tensor) -> bool:
    """Whether all of it is zero, dense or sparse."""
    return not bool((tensor._values() if tensor.is_sparse else tensor).any())
