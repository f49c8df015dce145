"""Traced graphs with sparse layers in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from isogrid.errors import UnsupportedError
from isogrid.runtime.cost import Work
from isogrid.runtime.layers import MaxPool2d, SparseConv2d, SparseLinear
from isogrid.runtime.products import find_products
from isogrid.runtime.rewriting import Choice, by_cost, rewrite, work_of
from isogrid.runtime.tracing import trace


def everything(*_: Any) -> tuple[bool, float, str]:
    return True, 2.0, "test"


class Of(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        self.conv, self.depthwise = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8)
        with torch.no_grad():
            for layer in (self.a, self.b, self.c, self.conv):
                layer.weight.mul_(torch.rand_like(layer.weight) > 0.6)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def rewritten(function: Callable[..., Any], *shape: int, **options: Any) -> tuple[fx.GraphModule, list[Choice]]:
    """The graph, which has been found to compute what the model does."""
    shape = shape or (4, 8)
    model = Of(function).eval()
    graph = trace(model, (torch.randn(*shape),), {}).graph
    choices = rewrite(graph, options.pop("decide", everything), "fp32", **options)
    with torch.no_grad():
        for batch in (5, 2):
            x = torch.randn(batch, *shape[1:])
            expected = model(x)
            expected = [expected] if isinstance(expected, Tensor) else list(expected)
            torch.testing.assert_close(list(graph(x)), expected, rtol=1e-4, atol=1e-5)
    return graph, choices


def modules(graph: fx.GraphModule) -> list[Any]:
    return [graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"]


def test_products_become_layers_and_their_weights_are_dropped() -> None:
    graph, (choice,) = rewritten(lambda m, x: m.a(x).relu() + 1)
    (layer,) = modules(graph)
    assert isinstance(layer, SparseLinear)
    assert str(layer.epilogue) == "relu"
    assert (choice.choice, choice.gain, choice.reason, choice.macs) == ("sparse", 2.0, "test", 4 * 64)
    names = [name for name, _ in [*graph.named_parameters(), *graph.named_buffers()]]
    assert names
    assert all(name.startswith("isogrid_") for name in names)


def test_what_stays_dense_is_not_touched() -> None:
    graph, choices = rewritten(lambda m, x: m.b(m.a(x).relu()), decide=lambda p, _: (p.name == "a.weight", 1.0, "test"))
    assert [(choice.name, choice.choice, choice.fused) for choice in choices] == [
        ("a.weight", "sparse", "bias, relu"),
        ("b.weight", "dense", ""),
    ]
    assert len(modules(graph)) == 1
    assert {name for name, _ in graph.named_parameters()} == {"b.weight", "b.bias"}


def test_nothing_sparse_changes_nothing() -> None:
    graph, choices = rewritten(lambda m, x: m.depthwise(m.conv(x)), 2, 8, 9, 9, decide=lambda *_: (False, 1.0, "test"))
    assert modules(graph) == []
    assert {choice.choice for choice in choices} == {"dense"}


@pytest.mark.parametrize("share", [True, False])
def test_products_of_the_same_input_are_stacked(share: bool) -> None:
    graph, choices = rewritten(lambda m, x: (m.a(x), m.b(x) * 2, m.c(x + 1)), share=share)
    assert [layer.rows for layer in modules(graph)] == ([16, 8] if share else [8, 8, 8])
    assert len(choices) == 3


def test_products_with_something_fused_are_not_stacked() -> None:
    graph, _ = rewritten(lambda m, x: (m.a(x).relu(), m.b(x), m.c(x) + x))
    assert [layer.rows for layer in modules(graph)] == [8, 8, 8]


def test_a_chain_of_residuals() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = (m.a(x) + x).relu()
        y = (m.b(y) + y).relu()
        return (m.c(y) + m.a(x)).relu()

    graph, _ = rewritten(forward)
    assert len(modules(graph)) == len([n for n in graph.graph.nodes if n.op not in ("placeholder", "output")]) == 4


def test_what_changes_an_input_in_between_keeps_the_layer_in_its_place() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = x.clone()
        z = m.a(y)
        y.mul_(2)
        return z.relu() + y

    _, (choice,) = rewritten(forward)
    assert choice.fused == "bias"


def test_depthwise_layers_follow_their_neighbours() -> None:
    graph, choices = rewritten(lambda m, x: m.depthwise(m.conv(x)), 2, 8, 9, 9)
    assert [(choice.kind, choice.choice) for choice in choices] == [("conv2d", "sparse"), ("depthwise", "sparse")]
    assert [type(layer) for layer in modules(graph)] == [SparseConv2d] * 2
    told = {"depthwise.weight": "dense"}
    graph, choices = rewritten(lambda m, x: m.depthwise(m.conv(x)), 2, 8, 9, 9, told=told)
    assert [(choice.choice, choice.reason) for choice in choices] == [("sparse", "test"), ("dense", "as told")]


def test_dropout_does_not_stand_in_the_way() -> None:
    graph, (choice,) = rewritten(lambda m, x: nn.functional.dropout(m.a(x), 0.5, m.training) + x)
    assert choice.fused == "bias, residual"
    assert len(modules(graph)) == 1


def test_dropout_that_is_always_on_stays() -> None:
    model = Of(lambda m, x: nn.functional.dropout(m.a(x), 0.5, True)).eval()
    graph = trace(model, (torch.randn(4, 8),), {}).graph
    rewrite(graph, everything, "fp32")
    assert any("dropout" in str(node.target) for node in graph.graph.nodes)


def test_max_pooling_becomes_native_where_it_can() -> None:
    pool = nn.functional.max_pool2d
    graph, _ = rewritten(lambda m, x: pool(m.conv(x), 3, 2, 1), 2, 8, 9, 9)
    assert [type(layer) for layer in modules(graph)] == [SparseConv2d, MaxPool2d]
    for other in (
        lambda m, x: pool(m.conv(x), 3, ceil_mode=True),
        lambda m, x: pool(m.conv(x).double(), 3),
        lambda m, x: pool(m.conv(x)[0], 3),
    ):
        graph, _ = rewritten(other, 2, 8, 9, 9)
        assert [type(layer) for layer in modules(graph)] == [SparseConv2d]


def test_work_of_layers() -> None:
    def work(function: Callable[..., Any], *shape: int) -> Work:
        model = Of(function).eval()
        (product,) = find_products(trace(model, (torch.randn(*shape),), {}).graph)
        return work_of(product)

    model = Of(lambda m, x: m.a(x))
    torch.manual_seed(0)
    found = work(lambda m, x: m.a(x), 3, 5, 8)
    assert (found.rows, found.columns, found.positions, found.inputs) == (8, 8, 15, 120)
    torch.manual_seed(0)
    assert found.nonzeros == int(torch.count_nonzero(Of(model.function).a.weight))
    found = work(lambda m, x: m.conv(x), 3, 8, 5, 6)
    assert (found.rows, found.columns, found.positions, found.inputs) == (8, 72, 3 * 5 * 6, 3 * 8 * 5 * 6)


def test_the_scale_is_of_positions_and_inputs() -> None:
    seen: list[Work] = []

    def decide(_: Any, work: Work) -> tuple[bool, float, str]:
        seen.append(work)
        return True, 1.0, "test"

    rewritten(lambda m, x: m.a(x), 4, 8, decide=decide, scale=0.5)
    assert (seen[0].positions, seen[0].inputs) == (2, 16)


def test_decisions_by_cost() -> None:
    model = Of(lambda m, x: m.a(x)).eval()
    (product,) = find_products(trace(model, (torch.randn(4, 8),), {}).graph)
    small, large = Work(8, 8, 20, 4, 32), Work(1024, 1024, 1024, 64, 65536)
    assert by_cost()(product, small)[::2] == (False, "cost model")
    assert by_cost()(product, large)[::2] == (True, "cost model")
    assert by_cost()(product, Work(8, 8, 64, 4, 32))[::2] == (False, "no zeros")
    for told in ("sparse", "dense"):
        for work in (small, large):
            assert by_cost({"a.weight": told})(product, work)[::2] == (told == "sparse", "as told")
    assert by_cost({"b.weight": "dense"})(product, large)[0]


def test_a_table_that_changes_when_it_is_read_stays() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.a = nn.Embedding(30, 8, max_norm=0.5), nn.Linear(8, 8)

        def forward(self, i: Tensor) -> Any:
            return self.a(self.table(i))

    model = Model().eval()
    with torch.no_grad():
        model.table.weight.mul_(torch.rand(30, 8) > 0.8)
    for told in (None, {"table.weight": "sparse"}):
        graph = trace(model, (torch.arange(4),), {}).graph
        _, choice = rewrite(graph, everything, "fp32", told=told)
        assert (choice.kind, choice.choice, choice.reason) == ("embedding", "dense", "changes when it is read")
        assert [type(layer) for layer in modules(graph)] == [SparseLinear]


def test_the_layer_whose_weights_cannot_be_rounded_is_named() -> None:
    model = Of(lambda m, x: (m.a(x), m.b(x), m.c(x).relu())).eval()
    with torch.no_grad():
        model.b.weight[0, 0] = 1e6
    graph = trace(model, (torch.randn(4, 8),), {}).graph
    with pytest.raises(UnsupportedError, match=r"^a\.weight or b\.weight holds 1e\+06, beyond 65504"):
        rewrite(graph, everything, "fp16")
