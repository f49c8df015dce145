"""Sparse layers as modules, against the dense ones."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from isogrid.activations import sparse_relu, sparse_tanh
from isogrid.errors import UnsupportedError, UsageError
from isogrid.runtime.epilogue import Epilogue
from isogrid.runtime.layers import MaxPool2d, SparseConv2d, SparseLinear, same_padding
from isogrid.runtime.matrix import VALUES


def sparse_weights(module: nn.Module, density: float = 0.3) -> nn.Module:
    with torch.no_grad():
        module.weight.mul_(torch.rand_like(module.weight) < density)
    return module.eval().requires_grad_(False)


def assert_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


EPILOGUES: list[tuple[Epilogue, Any]] = [
    (Epilogue(), lambda y: y),
    (Epilogue("relu"), F.relu),
    (Epilogue("clip", -0.2, 0.3), lambda y: y.clamp(-0.2, 0.3)),
    (Epilogue("leaky_relu", 0.2), lambda y: F.leaky_relu(y, 0.2)),
    (Epilogue("gelu"), F.gelu),
    (Epilogue("gelu_tanh"), lambda y: F.gelu(y, approximate="tanh")),
    (Epilogue("silu"), F.silu),
    (Epilogue("hard_swish"), F.hardswish),
    (Epilogue("hard_sigmoid"), F.hardsigmoid),
    (Epilogue("sigmoid"), torch.sigmoid),
    (Epilogue("tanh"), torch.tanh),
    (Epilogue("sparse_relu", 0.3), lambda y: sparse_relu(y, 0.3)),
    (Epilogue("sparse_tanh", 0.3), lambda y: sparse_tanh(y, 0.3)),
]


@pytest.mark.parametrize(("epilogue", "function"), EPILOGUES)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 9)])
def test_linear(batch: tuple[int, ...], residual: bool, epilogue: Epilogue, function: Any) -> None:
    dense: Any = sparse_weights(nn.Linear(20, 13))
    layer = SparseLinear.from_module(dense, epilogue=epilogue)
    x, r = 4 * torch.randn(*batch, 20), torch.randn(*batch, 13)
    assert_close(layer(x, r) if residual else layer(x), function(dense(x) + r if residual else dense(x)))


@pytest.mark.parametrize(("epilogue", "function"), EPILOGUES)
def test_convolution_with_residual(epilogue: Epilogue, function: Any) -> None:
    dense: Any = sparse_weights(nn.Conv2d(4, 6, 3, padding=1))
    layer = SparseConv2d.from_module(dense, epilogue=epilogue)
    x, r = 4 * torch.randn(2, 4, 7, 9), torch.randn(2, 6, 7, 9)
    assert_close(layer(x, r), function(dense(x) + r))
    assert_close(layer(x[0], r[0]), function(dense(x[0]) + r[0]))


@settings(max_examples=100)
@given(data=st.data())
def test_convolutions(data: st.DataObject) -> None:
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups = data.draw(st.sampled_from([1, 2, 3]))
    kernel, dilation = data.draw(pair), data.draw(pair)
    same = data.draw(st.booleans())
    options: dict[str, Any] = {"groups": groups, "dilation": dilation, "bias": data.draw(st.booleans())}
    if same:
        options["padding"] = "same"
    else:
        options |= {"padding": data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))), "stride": data.draw(pair)}
    dense: Any = sparse_weights(nn.Conv2d(groups * 2, groups * 3, kernel, **options))
    x = torch.randn(
        data.draw(st.integers(0, 3)), groups * 2, data.draw(st.integers(7, 12)), data.draw(st.integers(7, 12))
    )
    odd = not all(step * (size - 1) % 2 == 0 for size, step in zip(kernel, dilation, strict=True))
    if same and odd:
        top, left, bottom, right = same_padding(kernel, dilation)
        expected = F.conv2d(F.pad(x, (left, right, top, bottom)), dense.weight, dense.bias, 1, 0, dilation, groups)
    else:
        expected = dense(x)
    assert_close(SparseConv2d.from_module(dense)(x), expected)


def test_inputs_need_not_be_contiguous() -> None:
    dense: Any = sparse_weights(nn.Linear(20, 13))
    x = torch.randn(20, 5).t()
    assert_close(SparseLinear.from_module(dense)(x), dense(x))
    conv: Any = sparse_weights(nn.Conv2d(4, 6, 3))
    images = torch.randn(2, 4, 7, 9).to(memory_format=torch.channels_last)
    assert_close(SparseConv2d.from_module(conv)(images), conv(images))


def test_skipping_zeros_changes_nothing() -> None:
    dense: Any = sparse_weights(nn.Linear(200, 130))
    layer = SparseLinear.from_module(dense, skip_zeros=True)
    for density in (0.0, 0.1, 1.0):
        x = torch.randn(1, 200) * (torch.rand(1, 200) < density)
        assert_close(layer(x), dense(x))


@pytest.mark.parametrize("values", VALUES)
def test_it_computes_with_its_rounded_matrix(values: str) -> None:
    layer = SparseLinear.from_module(sparse_weights(nn.Linear(20, 13)), values)
    x = torch.randn(5, 20)
    assert_close(layer(x), F.linear(x, torch.from_numpy(layer.matrix.to_dense()), layer.bias))
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}[values]
    assert layer.values.dtype == dtype
    assert (layer.scales is not None) == (values == "int8")
    assert values in repr(layer)


def test_the_module_is_not_changed_and_not_shared() -> None:
    dense: Any = sparse_weights(nn.Linear(20, 13))
    layer, x = SparseLinear.from_module(dense), torch.randn(5, 20)
    expected = layer(x)
    dense.weight.zero_()
    dense.bias.zero_()
    assert torch.equal(copy.deepcopy(layer)(x), expected)


def test_copies_pickles_and_state_dicts() -> None:
    layer = SparseLinear.from_module(sparse_weights(nn.Linear(20, 13)), epilogue=Epilogue("relu"))
    x = torch.randn(5, 20)
    expected = layer(x)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), expected)
        state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        state["values"] *= 2
        state["bias"] *= 2
        copied.load_state_dict(state)
        assert_close(copied(x), 2 * expected)
    assert torch.equal(layer(x), expected)


def test_weights_stay_what_they_are() -> None:
    layer = SparseLinear.from_module(sparse_weights(nn.Linear(20, 13)), "int8")
    x = torch.randn(5, 20)
    expected = layer(x)
    assert torch.equal(layer.half().to(torch.float64)(x), expected)
    assert layer.bias is not None
    assert layer.bias.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "dense", "shape"),
    [(SparseLinear, nn.Linear(8, 5), (3, 8)), (SparseConv2d, nn.Conv2d(2, 5, 3), (1, 2, 6, 7))],
)
def test_a_trace_has_the_operator_and_not_its_result(kind: Any, dense: nn.Module, shape: tuple[int, ...]) -> None:
    layer = kind.from_module(dense)
    with torch.no_grad():
        traced = torch.jit.trace(layer, torch.randn(*shape))
        x = torch.randn(2 * shape[0], *shape[1:])
        assert torch.equal(traced(x), layer(x))


def test_training_is_refused() -> None:
    layer = SparseLinear.from_module(sparse_weights(nn.Linear(20, 13)))
    assert not layer.training
    assert layer.eval() is layer
    with pytest.raises(UnsupportedError, match="no training mode"):
        layer.train()


def test_sparsity_is_of_the_weights() -> None:
    dense = nn.Linear(4, 5)
    with torch.no_grad():
        dense.weight.zero_()
        dense.weight[0, :3] = 1
    layer = SparseLinear.from_module(dense)
    assert layer.sparsity == pytest.approx(17 / 20)
    assert repr(layer) == "SparseLinear(4 -> 5, sparsity=0.850, fp32)"


def test_what_is_refused() -> None:
    layer = SparseLinear.from_module(sparse_weights(nn.Linear(20, 13)))
    with pytest.raises(
        UsageError, match=r"^A sparse layer got an input of shape \(5, 19\); accepted is \[\.\.\., 20\]"
    ):
        layer(torch.randn(5, 19))
    with pytest.raises(UnsupportedError, match=r"^A sparse convolution got padding 'reflect'; accepted is 'zeros'\.$"):
        SparseConv2d.from_module(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(2, 2, 0, 1), (3, 2, 1, 1), ((3, 2), (1, 2), (1, 0), (2, 1)), (3, 1, 1, 3)],
)
def test_max_pooling(kernel: Any, stride: Any, padding: Any, dilation: Any) -> None:
    def pair(value: Any) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else value

    layer = MaxPool2d(pair(kernel), pair(stride), pair(padding), pair(dilation))
    x = torch.randn(2, 3, 11, 10)
    x[0, 0, 4, 4], x[0, 1, 4, 4], x[1, 0, 0, 0] = float("nan"), float("inf"), -float("inf")
    expected = F.max_pool2d(x, kernel, stride, padding, dilation)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0, equal_nan=True)
    x = torch.randn(2, 3, 11, 10, requires_grad=True)
    assert layer(x).requires_grad


def test_max_pooling_of_what_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^A max pooling got images of 2 x 9: .*\.$"):
        MaxPool2d([3], [1], [0], [1])(torch.randn(1, 2, 2, 9))


def test_same_padding_is_pytorchs() -> None:
    assert same_padding((3, 3), (1, 1)) == (1, 1, 1, 1)
    assert same_padding((2, 5), (1, 2)) == (0, 4, 1, 4)
