"""Products that are found in traced graphs, and what may be fused with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from isogrid.runtime.epilogue import Epilogue
from isogrid.runtime.products import Product, find_products, is_changed
from isogrid.runtime.tracing import trace


class Of(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.w, self.v, self.one = (nn.Parameter(torch.randn(*shape)) for shape in ((6, 6), (6,), (1,)))
        with torch.no_grad():
            for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var):
                tensor.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def products(function: Callable[..., Any], *shape: int) -> list[Product]:
    return find_products(trace(Of(function).eval(), (torch.randn(*(shape or (4, 6))),), {}).graph)


@pytest.mark.parametrize(
    ("function", "name", "transposed", "bias"),
    [
        (lambda m, x: m.a(x), "a.weight", False, "a.bias"),
        (lambda m, x: F.linear(x, m.w), "w", False, None),
        (lambda m, x: F.linear(x, m.w, bias=m.v), "w", False, "v"),
        (lambda m, x: x @ m.w, "w", True, None),
        (lambda m, x: torch.mm(x, m.w), "w", True, None),
        (lambda m, x: torch.addmm(m.v, x, m.w), "w", True, "v"),
    ],
)
def test_linear_products(function: Any, name: str, transposed: bool, bias: str | None) -> None:
    model = Of(function).eval()
    (found,) = find_products(trace(model, (torch.randn(4, 6),), {}).graph)
    weight = model.get_parameter(name)
    assert (found.name, found.kind) == (name, "linear")
    assert torch.equal(found.weight, weight.t() if transposed else weight)
    assert found.bias is None if bias is None else torch.equal(found.bias, model.get_parameter(bias))
    assert found.x.op == "placeholder"


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: F.linear(x, x),
        lambda m, x: F.linear(m.w, x),
        lambda m, x: F.linear(x, m.w, x[0]),
        lambda m, x: m.w @ x.t(),
        lambda m, x: x @ m.v,
        lambda m, x: torch.addmm(m.one, x, m.w),
        lambda m, x: torch.addmm(x[:1], x, m.w),
        lambda m, x: torch.addmm(m.v, x, m.w, beta=2),
    ],
)
def test_what_is_no_product_with_constant_weights(function: Any) -> None:
    assert products(function) == []


def test_convolutions_keep_their_geometry() -> None:
    (found,) = products(lambda m, x: F.conv2d(x, m.conv.weight[:, :3], m.conv.bias, (1, 2), (2, 0), 3, 2), 2, 6, 9, 9)
    assert (found.stride, found.padding, found.dilation, found.groups) == ((1, 2), (2, 0, 2, 0), (3, 3), 2)
    (found,) = products(lambda m, x: F.conv1d(x, m.conv.weight[..., 0], None, 2, "valid"), 2, 6, 9)
    assert (found.kind, found.stride, found.padding, found.dilation) == ("conv1d", (1, 2), (0, 0, 0, 0), (1, 1))
    (found,) = products(lambda m, x: F.conv2d(x, m.conv.weight[..., :2], padding="same"), 2, 6, 9, 9)
    assert found.padding == (1, 0, 1, 1)


def test_depthwise() -> None:
    (found,) = products(lambda m, x: F.conv2d(x, m.conv.weight[:, :1], groups=6), 2, 6, 9, 9)
    assert found.depthwise
    (found,) = products(lambda m, x: m.conv(x), 2, 6, 9, 9)
    assert not found.depthwise


def test_an_image_without_a_batch_is_left() -> None:
    assert products(lambda m, x: m.conv(x), 6, 9, 9) == []


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_is_folded(affine: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        norm = m.norm
        scale, shift = (norm.weight, norm.bias) if affine else (None, None)
        return F.batch_norm(m.conv(x), norm.running_mean, norm.running_var, scale, shift, eps=0.1)

    model = Of(forward).eval()
    (found,) = find_products(trace(model, (torch.randn(2, 6, 5, 5),), {}).graph)
    x = torch.randn(3, 6, 7, 7)
    assert found.folded
    got = F.conv2d(x, found.weight, found.bias, padding=1)
    torch.testing.assert_close(got, model(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.norm(y := m.conv(x)) + y.mean(),
        lambda m, x: F.batch_norm(m.conv(x), m.norm.running_mean, x[0, :, 0, 0].abs()),
        lambda m, x: F.batch_norm(m.conv(x), m.norm.running_mean + 0, m.norm.running_var + 0, training=True),
        lambda m, x: F.batch_norm(m.conv(x), m.norm.running_mean, m.norm.running_var, x[0, :, 0, 0], m.norm.bias),
    ],
)
def test_other_batch_norms_are_not(function: Any) -> None:
    (found,) = products(function, 2, 6, 5, 5)
    assert not found.folded
    assert len(found.nodes) == 1


@pytest.mark.parametrize(
    ("function", "fused"),
    [
        (lambda m, x: m.a(x) + x, True),
        (lambda m, x: x + m.a(x), True),
        (lambda m, x: m.a(x).add_(x), True),
        (lambda m, x: x.clone().add_(m.a(x)), False),
        (lambda m, x: torch.add(m.a(x), x, alpha=2), False),
        (lambda m, x: m.a(x) + 1, False),
        (lambda m, x: m.a(x) + m.v, False),
        (lambda m, x: m.a(x) + x[:1], False),
        (lambda m, x: (y := m.a(x)) + y, False),
        (lambda m, x: m.a(x) - x, False),
        (lambda m, x: m.a(x)[:1] + x, False),
    ],
)
def test_residuals(function: Any, fused: bool) -> None:
    (found,) = products(function)
    assert (found.addition is not None) == fused
    assert (found.residual is not None) == fused
    if fused:
        assert found.residual.op == "placeholder"


def test_a_sum_of_two_products_belongs_to_one() -> None:
    first, second = products(lambda m, x: F.relu(m.a(x) + m.b(x)))
    assert first.addition is not None
    assert second.addition is None
    assert first.residual is second.nodes[-1]
    assert str(first.epilogue) == "relu"
    assert not set(first.nodes) & set(second.nodes)


@pytest.mark.parametrize(
    ("function", "epilogue"),
    [
        (lambda y: y.relu(), Epilogue("relu")),
        (lambda y: y.relu_(), Epilogue("relu")),
        (F.relu6, Epilogue("clip", 0, 6)),
        (lambda y: y.clamp(-1, 2), Epilogue("clip", -1, 2)),
        (F.gelu, Epilogue("gelu")),
        (lambda y: F.gelu(y, approximate="tanh"), Epilogue("gelu_tanh")),
        (F.leaky_relu, Epilogue("leaky_relu", 0.01)),
        (lambda y: y.masked_fill(y <= 0.5, 0), Epilogue("sparse_relu", 0.5)),
        (lambda y: y.masked_fill(y <= 0.5, 1), Epilogue()),
        (lambda y: y.masked_fill(y < 0.5, 0), Epilogue()),
        (lambda y: (low := y <= 0.5) | (y.masked_fill(low, 0) > 1), Epilogue()),
        (lambda y: y.clamp(y.mean()), Epilogue()),
        (lambda y: torch.where(y > 0, y, 2), Epilogue()),
        (lambda y: F.softmax(y, -1), Epilogue()),
        (lambda y: y.relu() + y, Epilogue()),
    ],
)
def test_activations(function: Any, epilogue: Epilogue) -> None:
    (found,) = products(lambda m, x: function(m.a(x)))
    assert found.epilogue == epilogue
    assert found.x.op == "placeholder"


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        (lambda w: w.mul_(2), True),
        (lambda w: w.t()[1].detach().zero_(), True),
        (lambda w: w.chunk(2)[1].zero_(), True),
        (lambda w: w.clone().zero_(), False),
        (lambda w: w + 1, False),
    ],
)
def test_weights_that_the_graph_changes_are_no_constants(change: Any, changes: bool) -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.randn(6, 6))

        def forward(self, x: Tensor) -> Any:
            return F.linear(x, self.w), change(self.w).sum()  # type: ignore[arg-type]

    graph = trace(Changing().eval(), (torch.randn(4, 6),), {}).graph
    assert len(find_products(graph)) == (0 if changes else 1)
    (node,) = (node for node in graph.graph.nodes if node.op == "get_attr" and str(node.target) == "w")
    assert is_changed(node) == changes


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(6, 0), (4, 6)),
        (lambda: nn.Linear(0, 5), (4, 0)),
        (lambda: nn.Conv2d(0, 4, 1), (4, 0, 5, 5)),
    ],
)
def test_products_without_weights_are_left(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert find_products(trace(make().eval(), (torch.randn(*shape),), {}).graph) == []
