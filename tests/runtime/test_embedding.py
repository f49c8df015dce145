"""The sparse embedding table against PyTorch's own."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from isogrid.errors import UnsupportedError, UsageError
from isogrid.runtime.embedding import SparseEmbedding


def dense_table(rows: int, columns: int, density: float = 0.3) -> nn.Embedding:
    module = nn.Embedding(rows, columns).requires_grad_(False)
    module.weight.mul_(torch.rand_like(module.weight) < density)
    return module


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    shape=st.lists(st.integers(0, 5), max_size=3),
    values=st.sampled_from(["fp32", "fp16", "int8"]),
    short=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_rows_are_exactly_what_is_stored(
    rows: int, columns: int, density: float, shape: list[int], values: str, short: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    sparse = SparseEmbedding.from_module(dense_table(rows, columns, density), values)
    indices = torch.randint(rows, shape, dtype=torch.int32 if short else torch.int64)
    got = sparse(indices)
    assert got.dtype == torch.float32
    assert torch.equal(got, sparse.dense()[indices.long()])


def test_float32_is_torchs_result_bit_for_bit() -> None:
    module = dense_table(50, 30)
    indices = torch.randint(50, (4, 7))
    assert torch.equal(SparseEmbedding.from_module(module)(indices), module(indices))
    assert torch.equal(SparseEmbedding.from_module(module).dense(), module.weight)


@pytest.mark.parametrize("values", ["fp16", "int8"])
@pytest.mark.parametrize("density", [0.05, 0.9])
def test_rounded_values_are_near(values: str, density: float) -> None:
    module = dense_table(50, 30, density)
    indices = torch.randint(50, (4, 7))
    torch.testing.assert_close(SparseEmbedding.from_module(module, values)(indices), module(indices), rtol=0, atol=0.02)


def test_an_int8_table_is_stored_in_the_smaller_way() -> None:
    few = SparseEmbedding.from_module(dense_table(50, 64, 0.05), "int8")
    many = SparseEmbedding.from_module(dense_table(50, 64, 0.9), "int8")
    assert set(few.state_dict()) == {"row_begin", "column", "values", "scales"}
    assert set(many.state_dict()) == {"codes", "scales"}
    assert many.sparsity == pytest.approx(0.1, abs=0.03)
    assert few.sparsity == pytest.approx(0.95, abs=0.03)
    assert repr(many) == f"SparseEmbedding(50, 64, sparsity={many.sparsity:.3f}, int8, dense)"
    assert repr(few) == f"SparseEmbedding(50, 64, sparsity={few.sparsity:.3f}, int8)"


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("density", [0.05, 0.9])
def test_copies_pickles_and_files(values: str, density: float) -> None:
    sparse = SparseEmbedding.from_module(dense_table(20, 16, density), values)
    indices = torch.arange(20)
    expected = sparse(indices)
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    for twin in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse)), torch.load(file, weights_only=False)):
        assert torch.equal(twin(indices), expected)


@pytest.mark.parametrize("values", ["fp32", "int8"])
@pytest.mark.parametrize("density", [0.05, 0.9])
def test_a_state_dict_is_loaded_into_a_table_that_has_run(values: str, density: float) -> None:
    module = dense_table(20, 16, density)
    sparse = SparseEmbedding.from_module(module, values)
    module.weight.mul_(-2)
    other = SparseEmbedding.from_module(module, values)
    indices = torch.arange(20)
    before = sparse(indices)
    sparse.load_state_dict(other.state_dict())
    assert torch.equal(sparse(indices), other(indices))
    assert not torch.equal(sparse(indices), before)


def test_a_large_batch_on_two_threads() -> None:
    module = dense_table(100, 40)
    indices = torch.randint(100, (5000,))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(SparseEmbedding.from_module(module)(indices), module(indices))
    finally:
        torch.set_num_threads(before)


def test_padding_and_slices_of_indices_are_as_in_torch() -> None:
    module = nn.Embedding(10, 4, padding_idx=3)
    sparse = SparseEmbedding.from_module(module)
    indices = torch.arange(10).flip(0).expand(3, 10)[:, ::2]
    with torch.no_grad():
        assert torch.equal(sparse(indices), module(indices))
    assert not sparse(torch.tensor(3)).any()


@pytest.mark.parametrize(
    ("indices", "range_"), [([0, 10], "0 to 10"), ([-1, 3], "-1 to 3"), ([2**40], "1099511627776")]
)
def test_indices_that_are_no_row(indices: list[int], range_: str) -> None:
    sparse = SparseEmbedding.from_module(nn.Embedding(10, 4))
    with pytest.raises(UsageError, match=rf"SparseEmbedding got indices from .*{range_}; accepted are 0 to 9"):
        sparse(torch.tensor(indices))


def test_what_does_not_fit() -> None:
    sparse = SparseEmbedding.from_module(nn.Embedding(10, 4))
    with pytest.raises(UnsupportedError, match=r"got indices of torch.float32 on cpu; accepted are int64 and int32"):
        sparse(torch.zeros(3))
    with pytest.raises(UnsupportedError, match=r"SparseEmbedding got max_norm=1.0; accepted is None"):
        SparseEmbedding.from_module(nn.Embedding(10, 4, max_norm=1.0))
    with pytest.raises(UsageError, match=r"SparseEmbedding got a Linear; accepted is a torch.nn.Embedding"):
        SparseEmbedding.from_module(nn.Linear(10, 4))
    with pytest.raises(UnsupportedError, match=r"SparseEmbedding has no training mode"):
        sparse.train()


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_compiled_and_exported_it_is_an_operator(values: str) -> None:
    module = nn.Embedding(10, 4).requires_grad_(False)
    sparse = SparseEmbedding.from_module(module, values)
    compiled = torch.compile(lambda i: sparse(i) * 2, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.arange(3)), sparse(torch.arange(3)) * 2)
    exported = torch.export.export(sparse, (torch.arange(3),), dynamic_shapes=({0: torch.export.Dim("n")},))
    assert any(node.target is torch.ops.isogrid.sparse_embedding.default for node in exported.graph.nodes)
    for indices in (torch.arange(7), torch.zeros(1, dtype=torch.int64)):
        assert torch.equal(exported.module()(indices), sparse(indices))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_trace_that_would_have_results_as_constants_is_refused() -> None:
    sparse = SparseEmbedding.from_module(dense_table(10, 4))
    with pytest.raises(UnsupportedError, match=r"^SparseEmbedding got a call in torch\.jit\.trace .*; accepted are"):
        torch.jit.trace(sparse, torch.arange(3))
