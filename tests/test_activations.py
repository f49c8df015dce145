from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from isogrid.activations import SparseReLU, SparseTanh, TopK, sparse_relu, sparse_tanh, top_k
from isogrid.errors import UsageError

FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": sparse_relu,
    "sparse_relu": lambda x: sparse_relu(x, 0.5),
    "sparse_relu_per_channel": lambda x: sparse_relu(x, torch.linspace(0, 1, 8)),
    "sparse_tanh": lambda x: sparse_tanh(x, 0.5),
    "top_k": lambda x: top_k(x, 3),
    "top_k_share": lambda x: top_k(x, 0.4),
    "top_k_first_axis": lambda x: top_k(x, 2, dim=0),
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def zero_share(x: Tensor) -> float:
    return float((x == 0).float().mean())


# -- what the functions compute ----------------------------------------------------------------------------------------


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=30), st.floats(0, 3, width=32))
def test_sparse_relu_passes_what_is_above_the_threshold_and_nothing_else(values: list[float], threshold: float) -> None:
    wanted = [v if v > threshold else 0.0 for v in values]
    assert sparse_relu(torch.tensor(values), threshold).tolist() == wanted


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=30), st.floats(0, 3, width=32))
def test_sparse_tanh_cuts_by_magnitude_before_the_tanh(values: list[float], threshold: float) -> None:
    x = torch.tensor(values)
    wanted = torch.where(x.abs() > threshold, x.tanh(), 0.0)
    assert torch.equal(sparse_tanh(x, threshold), wanted)


@settings(deadline=None)
@given(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), min_size=1, max_size=20), st.data())
def test_top_k_keeps_exactly_k_with_ties_to_the_lower_index(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    # Zeros among the winners cannot be told from losers in the output, so the gradient says who won.
    x = torch.tensor(values, requires_grad=True)
    top_k(x, k).sum().backward()
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert x.grad is not None
    assert sorted(x.grad.nonzero().flatten().tolist()) == sorted(order[:k])


def test_top_k_along_any_axis() -> None:
    x = normal(3, 4, 5)
    for dim in (-3, -2, -1, 0, 1, 2):
        moved = top_k(x.movedim(dim, -1), 2).movedim(-1, dim)
        assert torch.equal(top_k(x, 2, dim=dim), moved)
        assert torch.equal((moved != 0).sum(dim), torch.full_like(moved.sum(dim), 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("share", "size", "winners"), [(0.07, 100, 7), (0.29, 100, 29), (0.1, 15, 1), (0.01, 5, 1), (1.0, 4, 4)]
)
def test_share_of_top_k_is_rounded_down_and_at_least_one(share: float, size: int, winners: int) -> None:
    assert int(torch.count_nonzero(top_k(torch.arange(1.0, size + 1), share))) == winners


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", FLOATING)
def test_shape_and_dtype_are_kept(name: str, dtype: torch.dtype) -> None:
    x = normal(4, 8, dtype=dtype)
    y = FUNCTIONS[name](x)
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert torch.allclose(y.double(), FUNCTIONS[name](x.double()), atol=1e-2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_goes_through_and_infinity_is_a_number(name: str) -> None:
    x = normal(4, 8)
    x[1, 2], x[2, 3] = float("nan"), float("inf")
    y = FUNCTIONS[name](x)
    assert y.isnan().nonzero().tolist() == [[1, 2]]
    assert y[2, 3] > 0


def test_top_k_lets_more_nans_through_than_it_has_places() -> None:
    y = top_k(torch.tensor([float("nan"), 1.0, float("nan")]), 1)
    assert y.isnan().tolist() == [True, False, True]
    assert y[1] == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_is_that_of_the_smooth_part_and_zero_where_the_output_was_cut(name: str) -> None:
    # Values 0.1 apart, none within 0.05 of a threshold: no finite difference of 1e-6 crosses a jump.
    x = (torch.randperm(32, generator=torch.Generator().manual_seed(1)).double() * 0.1 - 1.55).reshape(4, 8)
    thresholds = torch.linspace(0, 1, 8)
    assert float((x[..., None] - thresholds).abs().min()) > 1e-3
    x.requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name], (x,))
    y = FUNCTIONS[name](x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient == 0, y == 0)


def test_a_threshold_beyond_half_precision_cuts_everything() -> None:
    assert zero_share(sparse_relu(normal(8, dtype=torch.float16), 1e6)) == 1


def test_thresholded_functions_keep_at_most_the_output_and_a_byte_an_element_for_backward() -> None:
    x = normal(1000).requires_grad_()
    for function in (sparse_relu, sparse_tanh):
        kept: dict[int, int] = {}

        def pack(t: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[t.data_ptr()] = t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = function(x, 0.5)
        kept.pop(y.data_ptr(), None)
        assert sum(kept.values()) == 1000


# -- tracing -----------------------------------------------------------------------------------------------------------

MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": SparseReLU,
    "relu_threshold": lambda: SparseReLU(0.3),
    "relu_target": lambda: SparseReLU(target_sparsity=0.8),
    "tanh_threshold": lambda: SparseTanh(0.3),
    "tanh_target": lambda: SparseTanh(target_sparsity=0.5),
    "top_k": lambda: TopK(3),
    "top_k_share": lambda: TopK(0.25, dim=1),
}


def calibrated(name: str) -> nn.Module:
    module = MODULES[name]()
    for seed in range(5):
        module(normal(16, 8, seed=seed))
    return module.eval()


@pytest.mark.parametrize("name", MODULES)
def test_export_sees_through_the_modules(name: str) -> None:
    module, x = calibrated(name), normal(4, 8, seed=9)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    longer = normal(7, 8, seed=10)
    assert torch.equal(program.module()(longer), module(longer))


@pytest.mark.parametrize("name", MODULES)
def test_one_graph_compiles_training_and_calibration(name: str) -> None:
    torch._dynamo.reset()
    module = MODULES[name]()
    twin = copy.deepcopy(module)
    graph = torch.compile(module, backend="aot_eager", fullgraph=True)
    for seed in range(3):
        x, same = (normal(16, 8, seed=seed).requires_grad_() for _ in range(2))
        y, wanted = graph(x), twin(same)
        y.sum().backward()
        wanted.sum().backward()
        assert torch.equal(y, wanted)
        assert x.grad is not None
        assert same.grad is not None
        assert torch.equal(x.grad, same.grad)
    for key, value in twin.state_dict().items():
        assert torch.equal(module.state_dict()[key], value)


@pytest.mark.parametrize("name", MODULES)
def test_onnx_runtime_computes_the_same(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, x = calibrated(name), normal(4, 8, seed=9)
    x[0, :5] = 1.25  # ties
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, module(x).numpy(), atol=1e-6)
    assert np.array_equal(y == 0, module(x).numpy() == 0)


def test_plain_sparse_relu_exports_as_the_relu_that_runtimes_know() -> None:
    program = torch.export.export(SparseReLU(), (normal(2, 3),))
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called == [torch.ops.aten.relu.default]


# -- calibration -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kind", "target"), [(SparseReLU, 0.6), (SparseReLU, 0.95), (SparseTanh, 0.2), (SparseTanh, 0.9)]
)
def test_calibrates_to_the_wanted_share_and_freezes_in_eval(
    kind: type[SparseReLU | SparseTanh], target: float, dtype: torch.dtype
) -> None:
    module = kind(target_sparsity=target).to(dtype)
    for seed in range(60):
        module(normal(64, 100, seed=seed, dtype=dtype))
    module.eval()
    before = copy.deepcopy(module.state_dict())
    fresh = normal(500, 100, seed=1000, dtype=dtype)
    assert zero_share(module(fresh)) == pytest.approx(target, abs=0.01)
    module(fresh * 10)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_the_first_batch_already_gets_at_least_its_share() -> None:
    y = SparseReLU(target_sparsity=0.9)(normal(10, 100))
    assert int(torch.count_nonzero(y)) == 100


def test_threshold_follows_inputs_that_drift() -> None:
    module = SparseReLU(target_sparsity=0.8, momentum=0.2)
    for step in range(100):
        module(normal(64, 50, seed=step) * (1 + step / 50))
    y = module.eval()(normal(64, 50, seed=200) * 3)
    assert zero_share(y) == pytest.approx(0.8, abs=0.03)


def test_relu_threshold_never_falls_below_zero() -> None:
    module = SparseReLU(target_sparsity=0.1)
    y = module(normal(64, 50))
    assert float(module.threshold) == 0
    assert torch.equal(y, torch.relu(normal(64, 50)))


def test_before_calibration_the_modules_are_plain() -> None:
    x = normal(5, 5)
    assert torch.equal(SparseReLU(target_sparsity=0.9).eval()(x), x.relu())
    assert torch.equal(SparseTanh(target_sparsity=0.9).eval()(x), x.tanh())


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_does_not_move_the_threshold(poison: float) -> None:
    module = SparseReLU(target_sparsity=0.5)
    module(normal(10, 10))
    before = copy.deepcopy(module.state_dict())
    module(torch.full((10, 10), poison))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_an_empty_batch_is_no_batch() -> None:
    module = SparseReLU(target_sparsity=0.5)
    assert module(torch.empty(0, 7)).shape == (0, 7)
    assert int(module.count) == 0


def test_large_activations_are_sampled_evenly_over_channels() -> None:
    # 64 channels of very different scale, 2^19 values: a stride that is a power of two would see a few channels only.
    scale = torch.logspace(-2, 2, 64).reshape(1, 64, 1, 1)
    x = normal(8, 64, 32, 32) * scale
    y = SparseReLU(target_sparsity=0.9)(x)
    assert zero_share(y) == pytest.approx(0.9, abs=0.005)


def test_calibration_draws_no_random_numbers() -> None:
    x = normal(8, 64, 32, 32)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    SparseReLU(target_sparsity=0.9)(x)
    assert torch.equal(before, torch.get_rng_state())


def test_state_is_saved_copied_and_loaded() -> None:
    module = SparseReLU(target_sparsity=0.9)
    module(normal(10, 100))
    assert set(module.state_dict()) == {"threshold", "count"}
    fresh = SparseReLU(target_sparsity=0.9)
    fresh.load_state_dict(module.state_dict())
    x = normal(10, 100, seed=4)
    assert torch.equal(fresh.eval()(x), copy.deepcopy(module).eval()(x))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["threshold"], module.threshold)


def test_a_given_threshold_adds_nothing_to_the_state_dict() -> None:
    with_relu = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with_sparse = nn.Sequential(nn.Linear(3, 3), SparseReLU(0.1))
    with_sparse.load_state_dict(with_relu.state_dict())
    assert torch.equal(with_sparse[0].weight, with_relu[0].weight)


def test_a_module_used_twice_in_one_pass_can_go_backward() -> None:
    module = SparseReLU(target_sparsity=0.5)
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    module(second(module(first(normal(4, 6))))).sum().backward()
    assert int(module.count) == 2
    assert first.weight.grad is not None


def test_repr_says_what_the_module_does() -> None:
    assert repr(SparseReLU()) == "SparseReLU(threshold=0)"
    assert repr(SparseTanh(0.25)) == "SparseTanh(threshold=0.25)"
    assert repr(TopK(0.1, dim=1)) == "TopK(k=0.1, dim=1)"
    target = repr(SparseReLU(target_sparsity=0.9, momentum=0.1))
    assert target == "SparseReLU(target_sparsity=0.9, momentum=0.1, threshold=0 after 0 batches)"


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf"), "0.1", None, True])
def test_bad_thresholds_are_refused(threshold: object) -> None:
    x = normal(3)
    for call in (
        lambda: sparse_relu(x, threshold),  # type: ignore[arg-type]
        lambda: sparse_tanh(x, threshold),  # type: ignore[arg-type]
        lambda: SparseReLU(threshold),  # type: ignore[arg-type]
        lambda: SparseTanh(threshold),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match=r"threshold=.*accepted is a finite number >= 0"):
            call()


@pytest.mark.parametrize("target", [0, 1, -0.5, 1.5, float("nan"), "half", True])
def test_bad_targets_are_refused(target: object) -> None:
    with pytest.raises(UsageError, match="target_sparsity="):
        SparseReLU(target_sparsity=target)  # type: ignore[arg-type]


@pytest.mark.parametrize("momentum", [0, 1.1, float("nan"), None])
def test_bad_momentum_is_refused(momentum: object) -> None:
    with pytest.raises(UsageError, match="momentum="):
        SparseTanh(target_sparsity=0.5, momentum=momentum)  # type: ignore[arg-type]


def test_a_threshold_and_a_target_together_are_refused() -> None:
    with pytest.raises(UsageError, match="accepted is one of them"):
        SparseReLU(0.5, target_sparsity=0.9)


@pytest.mark.parametrize("k", [0, -1, 0.0, 1.5, float("nan"), True, "3"])
def test_bad_k_is_refused(k: object) -> None:
    for call in (lambda: top_k(normal(4), k), lambda: TopK(k)):  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="k="):
            call()


def test_k_longer_than_the_axis_and_axes_that_are_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match="k=5 for an axis of 4 values; accepted is 1 to 4"):
        top_k(normal(4), 5)
    with pytest.raises(UsageError, match="dim=1 for a tensor of 1 axes"):
        top_k(normal(4), 1, dim=1)
    with pytest.raises(UsageError, match="dim=-1 for a tensor of 0 axes"):
        top_k(torch.tensor(1.0), 1)


def test_integers_are_refused() -> None:
    for function in (sparse_relu, lambda x: sparse_tanh(x, 0.1), lambda x: top_k(x, 1)):
        with pytest.raises(UsageError, match=r"torch\.int64; accepted are floating tensors"):
            function(torch.arange(3))


def test_without_a_threshold_it_is_tanh_in_its_gradient_too() -> None:
    for threshold in (0.0, torch.tensor(0.0)):
        x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
        sparse_tanh(x, threshold).sum().backward()
        assert torch.allclose(x.grad, 1 - torch.tanh(x.detach()) ** 2)  # type: ignore[arg-type]
