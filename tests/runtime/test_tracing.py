"""Models as graphs, and which inputs the graphs are for."""

from __future__ import annotations

import copy
import logging
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.nn.utils import prune

from isogrid.runtime.tracing import Guards, InputPlan, TensorPlan, Traced, dump_spec, load_spec, trace


class Of(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Any, y: Any = None, z: Any = None) -> Any:
        return self.function(self.w, x, y, z)


def traced(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Traced:
    return trace(Of(function).eval(), args, kwargs)


def plan_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> InputPlan:
    return traced(function, *args, **kwargs).inputs


def fits(plan: InputPlan, *args: Any, **kwargs: Any) -> bool:
    return plan.flatten(args, kwargs) is not None


def test_every_size_is_open_where_the_model_allows_it() -> None:
    plan = plan_of(lambda w, x, y, *_: x @ w + y.sum(), torch.randn(3, 5, 6), torch.randn(2))
    first, second = plan.leaves
    assert first.dtype == torch.float32
    assert [type(size) for size in first.sizes] == [str, str, int]
    assert first.sizes[2] == 6
    assert len({*first.sizes, *second.sizes}) == 4
    for shape in ((3, 5, 6), (1, 1, 6), (9, 2, 6)):
        assert fits(plan, torch.randn(*shape), torch.randn(7))
    assert not fits(plan, torch.randn(3, 5, 7), torch.randn(2))
    assert not fits(plan, torch.randn(3, 6), torch.randn(2))
    assert not fits(plan, torch.randn(3, 5, 6).double(), torch.randn(2))
    assert not fits(plan, torch.randn(3, 5, 6))


def test_the_same_name_is_the_same_size() -> None:
    plan = plan_of(lambda w, x, y, *_: x @ w + y, torch.randn(3, 6), torch.randn(3, 6))
    assert plan.leaves[0].sizes[0] == plan.leaves[1].sizes[0]
    assert fits(plan, torch.randn(8, 6), torch.randn(8, 6))
    assert not fits(plan, torch.randn(8, 6), torch.randn(7, 6))


@pytest.mark.parametrize("shape", [(1, 4, 6), (4, 1, 6), (1, 1, 6)])
def test_sizes_of_one_stay_open(shape: tuple[int, ...]) -> None:
    found = traced(lambda w, x, *_: x @ w, torch.randn(*shape))
    assert fits(found.inputs, torch.randn(5, 7, 6))


def test_sizes_of_one_that_cannot_be_another() -> None:
    model = nn.Conv2d(1, 2, 3).eval()
    plan = trace(model, (torch.randn(1, 1, 8, 8),), {}).inputs
    assert fits(plan, torch.randn(5, 1, 9, 9))
    assert not fits(plan, torch.randn(5, 2, 9, 9))


def test_what_is_no_tensor_must_be_the_same() -> None:
    plan = plan_of(lambda w, x, y, *_: {"a": x["a"] @ w * y}, {"a": torch.randn(3, 6), "b": "text"}, 2)
    assert fits(plan, {"a": torch.randn(4, 6), "b": "text"}, 2)
    for y in (3, 2.0, True, None, torch.tensor(2), [2]):
        assert not fits(plan, {"a": torch.randn(4, 6), "b": "text"}, y)
    assert not fits(plan, {"a": torch.randn(4, 6), "b": "other"}, 2)
    assert not fits(plan, {"a": torch.randn(4, 6)}, 2)
    ones = plan_of(lambda w, x, y, *_: x @ w * y, torch.randn(3, 6), 1)
    assert fits(ones, torch.randn(3, 6), 1)
    assert not fits(ones, torch.randn(3, 6), True)


def test_inputs_by_position_and_keyword() -> None:
    a, b, c = (torch.full((2, 6), float(n)) for n in range(3))
    plans = [
        plan_of(lambda w, x, y, z: x @ w + y * z, a, b, c),
        plan_of(lambda w, x, y, z: x @ w + y * z, a, z=c, y=b),
        plan_of(lambda w, x, y, z: x @ w + y * z, z=c, x=a, y=b),
    ]
    for plan, order in zip(plans, ([0, 1, 2], [0, 2, 1], [2, 0, 1]), strict=True):
        for flat in (
            plan.flatten((a, b, c), {}),
            plan.flatten((a, b), {"z": c}),
            plan.flatten((a,), {"y": b, "z": c}),
            plan.flatten((), {"y": b, "x": a, "z": c}),
        ):
            assert flat is not None
            assert [int(leaf[0, 0]) for leaf in flat] == order
        assert not fits(plan, a, b)
        assert not fits(plan, a, b, c, c)
        assert not fits(plan, a, b, c, y=b)
        assert not fits(plan, a, b, w=c)


def test_one_list_is_not_several_inputs() -> None:
    a = torch.randn(2, 6)
    plan = plan_of(lambda w, x, *_: x[0] @ w + x[1], [a, a])
    assert fits(plan, [a, a])
    assert not fits(plan, a, a)


def test_any_number_of_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, *xs: Tensor) -> Tensor:
            return sum(xs, torch.zeros(())) if xs[0].shape[0] < 5 else xs[0]

    plan = trace(Sum().eval(), (torch.randn(3, 2), torch.randn(3, 2)), {}).inputs
    assert fits(plan, torch.randn(4, 7), torch.randn(4, 7))
    assert not fits(plan, torch.randn(5, 7), torch.randn(5, 7))
    assert not fits(plan, torch.randn(3, 2))


def test_guards_hold_in_copies_and_pickles() -> None:
    def forward(w: Tensor, x: Any, *_: Any) -> Tensor:
        rows = x["rows"]
        return rows @ w if rows.shape[0] > 3 and rows.shape[1] % 2 == 0 else rows

    plan = plan_of(forward, {"rows": torch.randn(8, 4, 6)})
    plan.flatten(({"rows": torch.randn(4, 4, 6)},), {})
    for same in (plan, copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert fits(same, {"rows": torch.randn(4, 2, 6)})
        assert not fits(same, {"rows": torch.randn(3, 2, 6)})
        assert not fits(same, {"rows": torch.randn(4, 3, 6)})


def test_excluded_sizes() -> None:
    plan = plan_of(lambda w, x, *_: x @ w, torch.randn(3, 6))
    assert fits(plan, torch.randn(1, 6))
    plan.excluded.add((plan.leaves[0].sizes[0], 1))
    plan.forget()
    assert not fits(plan, torch.randn(1, 6))
    assert fits(plan, torch.randn(2, 6))
    assert not fits(pickle.loads(pickle.dumps(plan)), torch.randn(1, 6))


def test_sizes_that_are_small_together_only() -> None:
    plan = plan_of(lambda w, x, y, *_: (x @ w, y @ w), torch.randn(3, 6), torch.randn(3, 6))
    first, second = (leaf.sizes[0] for leaf in plan.leaves)
    plan.mixed = {(first, 1): {second}, (second, 1): {first}}
    plan.forget()
    for same in (plan, pickle.loads(pickle.dumps(plan))):
        assert fits(same, torch.randn(1, 6), torch.randn(1, 6))
        assert fits(same, torch.randn(2, 6), torch.randn(4, 6))
        assert not fits(same, torch.randn(1, 6), torch.randn(2, 6))
        assert not fits(same, torch.randn(2, 6), torch.randn(1, 6))


def test_guards() -> None:
    guards = Guards(["L['x'].size()[0] > 3", "(L['more'][1].size()[0] % 2) == 0"], "more")
    for same in (guards, pickle.loads(pickle.dumps(guards))):
        assert same.hold({"x": torch.zeros(4), "more": (None, torch.zeros(2))})
        assert not same.hold({"x": torch.zeros(3), "more": (None, torch.zeros(2))})
        assert not same.hold({"x": torch.zeros(4), "more": (None, torch.zeros(3))})
    assert Guards([]).hold({})


def test_tensor_plan() -> None:
    plan = TensorPlan(torch.float32, ("a", 3, "a"))
    named = {"a": 2}
    assert plan.fits(torch.zeros(2, 3, 2), named)
    assert not plan.fits(torch.zeros(5, 3, 5), named)
    assert not plan.fits(torch.zeros(2, 3, 5), {})
    assert not plan.fits(torch.zeros(2, 3), {})


def test_specs_round_trip() -> None:
    spec = torch.utils._pytree.tree_structure({"a": (1, [2, None])})
    assert load_spec(pickle.loads(pickle.dumps(dump_spec(spec)))) == spec


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda w, x, *_: F.linear(x, w.t()), "w_t"),
        (lambda w, x, *_: x @ w[:, :4].chunk(2, 1)[1], "w_slice_1"),
        (lambda w, x, *_: x @ (w * (w > 0)), "w_mul"),
    ],
)
def test_what_depends_on_parameters_alone_is_computed_once(function: Any, name: str) -> None:
    model = Of(function).eval()
    graph = trace(model, (torch.randn(3, 6),), {}).graph
    assert [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"] == [name]
    assert sum(node.op == "call_function" for node in graph.graph.nodes) == 1
    graph.recompile()
    x = torch.randn(5, 6)
    torch.testing.assert_close(graph(x)[0], model(x), rtol=0, atol=0)


def test_masks_of_pytorchs_own_pruning_are_computed_once() -> None:
    layer = prune.random_unstructured(nn.Linear(6, 6), "weight", amount=0.5).eval()
    graph = trace(layer, (torch.randn(3, 6),), {}).graph
    (product,) = [node for node in graph.graph.nodes if node.target is torch.ops.aten.linear.default]
    assert product.args[1].op == "get_attr"
    assert torch.equal(getattr(graph, product.args[1].target), layer.weight)


@pytest.mark.parametrize(
    "function",
    [
        lambda w, x, *_: x + F.dropout(w, 0.5, training=True)[:3],
        lambda w, x, *_: x @ w.repeat(3, 3)[:6],
    ],
)
def test_random_and_larger_tensors_are_not_computed_once(function: Any) -> None:
    graph = traced(function, torch.randn(3, 6)).graph
    assert [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"] == ["w"]


def test_a_buffer_that_changes_is_not_computed_once() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = nn.Buffer(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1)
            return x * (self.count * 2)

    graph = trace(Counts().eval(), (torch.ones(3),), {}).graph
    graph.recompile()
    assert [float(graph(torch.ones(1))[0]) for _ in range(2)] == [2, 4]


def test_attention_is_traced_as_its_products() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    before = torch.backends.mha.get_fastpath_enabled()
    targets = {str(node.target) for node in trace(layer, (torch.randn(2, 3, 8),), {}).graph.graph.nodes}
    assert "aten.linear.default" in targets
    assert not any("transformer" in target for target in targets)
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_what_cannot_be_traced_raises_and_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("torch.fx.experimental.symbolic_shapes").level
    before, stderr = torch.backends.mha.get_fastpath_enabled(), sys.stderr
    with pytest.raises(Exception, match="data-dependent"):
        traced(lambda w, x, *_: x @ w if x.sum() > 0 else x, torch.randn(3, 6))
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert sys.stderr is stderr
    assert logging.getLogger("torch.fx.experimental.symbolic_shapes").level == level
    assert capfd.readouterr().err == ""


class Stream(nn.Module):
    """One step of a recurrent layer: batch and steps are 1, and the steps cannot vary."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 6, batch_first=True)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, after = self.gru(x, state)
        return y, after


def test_the_graph_is_for_the_example_at_least() -> None:
    example = torch.randn(1, 1, 6), torch.zeros(1, 1, 6)
    assert fits(trace(Stream().eval(), example, {}).inputs, *example)
