"""Sparse LSTM and GRU against PyTorch's own."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from isogrid.errors import UnsupportedError, UsageError
from isogrid.runtime.recurrent import SparseGRU, SparseLSTM

KINDS = [(SparseLSTM, nn.LSTM), (SparseGRU, nn.GRU)]
Sparse = type[SparseLSTM] | type[SparseGRU]


def dense_layers(kind: type[nn.RNNBase], *sizes: int, density: float = 0.3, **options: Any) -> nn.RNNBase:
    """Layers most of whose weights are zero, their rows of length 2 or so.

    With longer rows the steps are chaotic: float32's own rounding grows from step to step past any tolerance.
    """
    module = kind(*sizes, **options).eval().requires_grad_(False)
    for name, weight in module.named_parameters():
        if name.startswith("weight"):
            length = max(1, density * weight.shape[1]) ** 0.5
            weight.copy_(2 / length * torch.randn_like(weight) * (torch.rand_like(weight) < density))
        else:
            weight.copy_(torch.randn_like(weight))
    return module


def flat(result: Any) -> list[Tensor]:
    """All tensors of a result, whatever they are nested in."""
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result if part is not None for t in flat(part)]


def assert_close(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    for a, b in zip(flat(got), flat(expected), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance)


def in_double(module: nn.RNNBase, x: Any, hx: Any = None) -> Any:
    """What PyTorch computes in float64."""
    twin = copy.deepcopy(module).double()
    states = hx if hx is None else hx.double() if isinstance(hx, Tensor) else tuple(t.double() for t in hx)
    return twin(x.double() if isinstance(x, Tensor) else x.to(torch.float64), states)


def states_of(module: nn.RNNBase, *batch: int) -> Any:
    passes = module.num_layers * (2 if module.bidirectional else 1)
    h, c = (torch.randn(passes, *batch, module.hidden_size) for _ in range(2))
    return (h, c) if isinstance(module, nn.LSTM) else h


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (1, 4), (6, 1), (5, 3), (3, 17)])
def test_equals_torch_in_double_precision(
    sparse: Sparse, kind: type[nn.RNNBase], bidirectional: bool, num_layers: int, steps: int, batch: int
) -> None:
    module = dense_layers(kind, 10, 13, num_layers=num_layers, bidirectional=bidirectional)
    layers = sparse.from_module(module)
    x = torch.randn(steps, batch, 10)
    hx = states_of(module, batch)
    assert_close(layers(x), in_double(module, x))
    assert_close(layers(x, hx), in_double(module, x, hx))


@given(
    pair=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 12)),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    bias=st.booleans(),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_shape_and_option(
    pair: Any, sizes: tuple[int, int], shape: tuple[int, int], density: float, bias: bool, batch_first: bool,
    bidirectional: bool, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    sparse, kind = pair
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    module = dense_layers(kind, *sizes, density=density, **options)
    x = torch.randn(*shape, sizes[0])
    hx = states_of(module, shape[0 if batch_first else 1])
    assert_close(sparse.from_module(module)(x, hx), in_double(module, x, hx))


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_sample_without_a_batch(sparse: Sparse, kind: type[nn.RNNBase], bidirectional: bool) -> None:
    module = dense_layers(kind, 4, 6, num_layers=2, bidirectional=bidirectional, batch_first=True)
    layers = sparse.from_module(module)
    x = torch.randn(5, 4)
    hx = states_of(module)
    assert_close(layers(x), module(x))
    assert_close(layers(x, hx), module(x, hx))


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [[3, 5, 5, 1], [5, 5, 3, 1], [4], [2, 2], [1, 9, 1]])
def test_packed_sequences(sparse: Sparse, kind: type[nn.RNNBase], bidirectional: bool, lengths: list[int]) -> None:
    module = dense_layers(kind, 4, 6, num_layers=2, bidirectional=bidirectional)
    layers = sparse.from_module(module)
    packed = pack_sequence([torch.randn(n, 4) for n in lengths], enforce_sorted=False)
    hx = states_of(module, len(lengths))
    for state in (None, hx):
        got = layers(packed, state)
        assert isinstance(got[0], PackedSequence)
        assert_close(got, in_double(module, packed, state))


def test_packed_sequences_in_order_stay_in_order() -> None:
    module = dense_layers(nn.GRU, 4, 6, batch_first=True)
    packed = pack_padded_sequence(torch.randn(3, 5, 4), torch.tensor([5, 4, 2]), batch_first=True)
    assert packed.unsorted_indices is None
    assert_close(SparseGRU.from_module(module)(packed), module(packed))


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
def test_a_long_sequence_equals_one_that_is_fed_step_by_step(sparse: Sparse, kind: type[nn.RNNBase]) -> None:
    module = dense_layers(kind, 8, 24, num_layers=2, density=0.1)
    layers = sparse.from_module(module)
    x = torch.randn(300, 2, 8)
    whole, last = layers(x)
    state = None
    for t in range(len(x)):
        y, state = layers(x[t : t + 1], state)
        torch.testing.assert_close(y[0], whole[t], rtol=0, atol=1e-5)
    assert_close(state, last)


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
def test_inputs_and_states_that_are_not_contiguous(sparse: Sparse, kind: type[nn.RNNBase]) -> None:
    module = dense_layers(kind, 4, 6)
    x = torch.randn(4, 3, 5).permute(2, 1, 0)
    hx = states_of(module, 1)
    hx = hx.expand(1, 3, 6) if isinstance(hx, Tensor) else tuple(t.expand(1, 3, 6) for t in hx)
    before = flat(hx)[0].clone()
    assert_close(sparse.from_module(module)(x, hx), module(x, hx))
    assert torch.equal(flat(hx)[0], before)


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
def test_a_batch_of_none(sparse: Sparse, kind: type[nn.RNNBase]) -> None:
    module = dense_layers(kind, 4, 6, bidirectional=True)
    got = sparse.from_module(module)(torch.empty(3, 0, 4))
    assert [t.shape for t in flat(got)] == [t.shape for t in flat(module(torch.empty(3, 0, 4)))]


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
@pytest.mark.parametrize("values", ["fp16", "int8"])
def test_stored_values_are_what_is_computed_with(sparse: Sparse, kind: type[nn.RNNBase], values: str) -> None:
    module = dense_layers(kind, 9, 12, bidirectional=True)
    layers = sparse.from_module(module, values)
    rounded = copy.deepcopy(module)
    for name, weight in rounded.named_parameters():
        if name.startswith("weight"):
            weight.copy_(torch.from_numpy(layers.matrix(name).to_dense()))
    assert not torch.equal(rounded.weight_hh_l0, module.weight_hh_l0)
    for shape in ((1, 1, 9), (4, 3, 9), (4, 1, 9)):
        x = torch.randn(shape)
        assert_close(layers(x), in_double(rounded, x))


def test_layers_of_a_training_module_drop_nothing() -> None:
    module = dense_layers(nn.GRU, 4, 6, num_layers=2, dropout=0.5)
    x = torch.randn(3, 2, 4)
    expected = module(x)
    layers = SparseGRU.from_module(module.train())
    assert_close(layers(x), expected)
    assert module.training
    assert not layers.training


def test_the_module_that_it_is_made_from_is_neither_changed_nor_shared() -> None:
    module = dense_layers(nn.LSTM, 4, 6)
    x = torch.randn(3, 2, 4)
    layers = SparseLSTM.from_module(module)
    expected = layers(x)
    for weight in module.parameters():
        weight.zero_()
    assert_close(SparseLSTM.from_module(module)(x), module(x))
    assert_close(copy.deepcopy(layers)(x), expected, tolerance=0)


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_copies_pickles_and_files(sparse: Sparse, kind: type[nn.RNNBase], values: str) -> None:
    layers = sparse.from_module(dense_layers(kind, 4, 6, num_layers=2, bidirectional=True), values)
    x = torch.randn(3, 2, 4)
    expected = layers(x)  # the native operations exist by now, and are not what is copied
    file = io.BytesIO()
    torch.save(layers, file)
    file.seek(0)
    copies = [copy.deepcopy(layers), pickle.loads(pickle.dumps(layers)), torch.load(file, weights_only=False)]
    for twin in copies:
        assert_close(twin(x), expected, tolerance=0)
        for name, buffer in layers.named_buffers():
            assert torch.equal(dict(twin.named_buffers())[name], buffer)
    assert_close(layers(x), expected, tolerance=0)


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
def test_a_state_dict_is_loaded_into_layers_that_have_run(sparse: Sparse, kind: type[nn.RNNBase]) -> None:
    module = dense_layers(kind, 4, 6, num_layers=2, bidirectional=True)
    layers = sparse.from_module(module)
    for weight in module.parameters():
        weight.mul_(-0.5)  # the same places
    other = sparse.from_module(module)
    x = torch.randn(3, 2, 4)
    before = layers(x)
    layers.load_state_dict(other.state_dict())
    assert_close(layers(x), other(x), tolerance=0)
    assert not torch.allclose(before[0], layers(x)[0])


def test_matrices_and_buffers_have_torchs_names() -> None:
    module = dense_layers(nn.GRU, 4, 6, num_layers=2, bidirectional=True)
    layers = SparseGRU.from_module(module)
    matrices = [name for name, _ in module.named_parameters() if name.startswith("weight")]
    expected = {f"{m}_{part}" for m, part in itertools.product(matrices, ("row_begin", "column", "values"))}
    expected |= {name for name, _ in module.named_parameters() if name.startswith("bias")}
    assert set(layers.state_dict()) == expected
    for name in matrices:
        assert torch.equal(torch.from_numpy(layers.matrix(name).to_dense()), getattr(module, name))


def test_repr_says_what_is_stored() -> None:
    module = dense_layers(nn.GRU, 4, 6, num_layers=2, batch_first=True, density=1.0)
    module.weight_hh_l0.zero_()
    text = repr(SparseGRU.from_module(module, "fp16"))
    assert text == "SparseGRU(4, 6, num_layers=2, batch_first=True, sparsity=0.273, fp16)"


def test_other_dtypes_and_devices_of_the_module_leave_the_layers_as_they_are() -> None:
    module = dense_layers(nn.GRU, 4, 6)
    layers = SparseGRU.from_module(module)
    x = torch.randn(3, 2, 4)
    expected = layers(x)
    assert_close(layers.double().half().to("meta")(x), expected, tolerance=0)


def test_float64_as_the_default_dtype_changes_nothing() -> None:
    module = dense_layers(nn.GRU, 4, 6)
    x = torch.randn(3, 2, 4)
    expected = module(x)
    torch.set_default_dtype(torch.float64)
    try:
        got = SparseGRU.from_module(module)(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert got[0].dtype == torch.float32
    assert_close(got, expected)


def test_gradients_are_refused_only_where_they_would_be_recorded() -> None:
    layers = SparseLSTM.from_module(nn.LSTM(4, 6))
    x = torch.randn(3, 2, 4, requires_grad=True)
    with torch.no_grad():
        layers(x)
    with torch.inference_mode():
        layers(torch.randn(3, 2, 4))
    with pytest.raises(UnsupportedError, match=r"SparseLSTM got an input that requires a gradient; .*torch.no_grad"):
        layers(x)
    h = torch.zeros(1, 2, 6)
    with pytest.raises(UnsupportedError, match=r"SparseLSTM got a state that requires a gradient"):
        layers(x.detach(), (h, h.clone().requires_grad_()))


@pytest.mark.parametrize(
    ("x", "hx", "message"),
    [
        (torch.zeros(3, 2, 5), None, r"an input of shape \(3, 2, 5\); accepted is \[steps, 4\] or \[steps, batch, 4\]"),
        (torch.zeros(4), None, r"an input of shape \(4,\)"),
        (torch.zeros(2, 3, 2, 4), None, r"an input of shape \(2, 3, 2, 4\)"),
        (torch.zeros(0, 2, 4), None, r"an input of shape \(0, 2, 4\); accepted is one step or more"),
        (torch.zeros(3, 2, 4), torch.zeros(1, 3, 6), r"state of shape \(1, 3, 6\); accepted is \(1, 2, 6\)"),
        (torch.zeros(3, 2, 4), torch.zeros(1, 6), r"state of shape \(1, 6\); accepted is \(1, 2, 6\)"),
        (torch.zeros(3, 4), torch.zeros(1, 1, 6), r"state of shape \(1, 1, 6\); accepted is \(1, 6\)"),
        (torch.zeros(3, 2, 4).double(), None, r"an input of torch.float64 on cpu; accepted is float32 on the CPU"),
        (torch.zeros(3, 2, 4), torch.zeros(1, 2, 6).half(), r"a state of torch.float16 on cpu"),
        (torch.zeros(3, 2, 4, device="meta"), None, r"an input of torch.float32 on meta"),
        ([1.0], None, r"an input of type list; accepted is a tensor"),
        (pack_sequence([torch.zeros(3, 5)]), None, r"a packed input of shape \(3, 5\); accepted is \[tokens, 4\]"),
        (pack_sequence([torch.zeros(3, 4)]), torch.zeros(1, 2, 6), r"state of shape \(1, 2, 6\)"),
    ],
)
def test_inputs_that_do_not_fit(x: Any, hx: Any, message: str) -> None:
    layers = SparseGRU.from_module(nn.GRU(4, 6))
    with pytest.raises(UsageError, match=rf"^SparseGRU got {'a ' if message.startswith('state') else ''}{message}"):
        layers(x, hx)


def test_an_lstm_wants_both_states() -> None:
    layers = SparseLSTM.from_module(nn.LSTM(4, 6))
    with pytest.raises(UsageError, match=r"a state of type Tensor; accepted is \(h_0, c_0\)"):
        layers(torch.zeros(3, 2, 4), torch.zeros(1, 2, 6))
    with pytest.raises(UsageError, match=r"a state of shape \(1, 1, 6\)"):
        layers(torch.zeros(3, 2, 4), (torch.zeros(1, 2, 6), torch.zeros(1, 1, 6)))


def test_modules_that_do_not_fit() -> None:
    with pytest.raises(UnsupportedError, match=r"SparseLSTM got proj_size=3; accepted is 0, no projection"):
        SparseLSTM.from_module(nn.LSTM(4, 6, proj_size=3))
    with pytest.raises(UsageError, match=r"SparseLSTM got a GRU; accepted is a torch.nn.LSTM"):
        SparseLSTM.from_module(nn.GRU(4, 6))
    with pytest.raises(UsageError, match=r"Unknown values 'fp8'"):
        SparseGRU.from_module(nn.GRU(4, 6), "fp8")
    with pytest.raises(UnsupportedError, match=r"SparseGRU has no training mode"):
        SparseGRU.from_module(nn.GRU(4, 6)).train()


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_compiled_and_exported_it_is_an_operator(sparse: Sparse, kind: type[nn.RNNBase], batch_first: bool) -> None:
    module = dense_layers(kind, 4, 6, num_layers=2, bidirectional=True, batch_first=batch_first)
    layers = sparse.from_module(module)
    x = torch.randn(3, 2, 4)
    compiled = torch.compile(lambda t: layers(t)[0] * 2, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(x), module(x)[0] * 2)
        exported = torch.export.export(
            layers, (x,), dynamic_shapes=({0: torch.export.Dim("a"), 1: torch.export.Dim("b")},)
        )
        assert any(node.target is torch.ops.isogrid.sparse_recurrent.default for node in exported.graph.nodes)
        for shape in ((5, 4, 4), (3, 2, 4)):
            x = torch.randn(shape)
            torch.testing.assert_close(exported.module()(x), layers(x))
            torch.testing.assert_close(layers(x), module(x), atol=1e-5, rtol=1e-4)


def test_in_a_graph_states_and_single_samples_too() -> None:
    module = dense_layers(nn.LSTM, 4, 6)
    layers = SparseLSTM.from_module(module)
    compiled = torch.compile(layers, backend="eager", fullgraph=True)
    states = torch.randn(1, 2, 6), torch.randn(1, 2, 6)
    with torch.no_grad():
        torch.testing.assert_close(compiled(torch.ones(3, 2, 4), states), layers(torch.ones(3, 2, 4), states))
        torch.testing.assert_close(compiled(torch.ones(3, 4)), layers(torch.ones(3, 4)))


def test_in_a_graph_a_packed_sequence_is_run_as_it_is() -> None:
    module = dense_layers(nn.GRU, 4, 6)
    layers = SparseGRU.from_module(module)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(5, 2, 4), torch.tensor([5, 3]))
    compiled = torch.compile(lambda t: layers(t)[1] * 2, backend="eager")
    with torch.no_grad():
        assert_close(compiled(packed), module(packed)[1] * 2)


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
def test_two_threads_give_what_one_gives(sparse: Sparse, kind: type[nn.RNNBase]) -> None:
    module = dense_layers(kind, 64, 160, density=0.5)
    layers = sparse.from_module(module)
    inputs = [torch.randn(shape) for shape in ((1, 1, 64), (5, 1, 64), (5, 33, 64))]
    expected = [layers(x) for x in inputs]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        got = [layers(x) for x in inputs]
    finally:
        torch.set_num_threads(before)
    assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("sparse", "kind"), KINDS)
def test_a_trace_that_would_have_results_as_constants_is_refused(sparse: Sparse, kind: type[nn.RNNBase]) -> None:
    layers = sparse.from_module(dense_layers(kind, 4, 6))
    with pytest.raises(UnsupportedError, match=rf"^{sparse.__name__} got a call in torch\.jit\.trace .*; accepted are"):
        torch.jit.trace(layers, torch.randn(5, 3, 4))


@pytest.mark.parametrize(("sparse", "kind"), KINDS)
def test_weights_that_cannot_be_rounded_are_named(sparse: Sparse, kind: type[nn.RNNBase]) -> None:
    module = dense_layers(kind, 4, 6)
    module.weight_hh_l0[0, 0] = 1e6
    with pytest.raises(UnsupportedError, match=r"^encoder\.weight_hh_l0 holds 1e\+06, beyond 65504"):
        sparse.from_module(module, "fp16", owner="encoder.")
