"""Choices by the clock, the clock being a fake: no test asks what is faster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from isogrid.runtime import compiler
from isogrid.runtime.cost import Work, gain
from isogrid.runtime.layers import SparseLinear
from isogrid.runtime.products import Product, find_products
from isogrid.runtime.rewriting import work_of
from isogrid.runtime.tracing import trace
from isogrid.runtime.tuning import Stopwatch, seconds_of


class Clock:
    """Stands still but for what calls add to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def taking(self, *seconds: float) -> Callable[[], None]:
        """A call that takes these times in turn, the last from then on."""
        left = list(seconds)

        def call() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def product_of(model: nn.Module, *shape: int) -> Product:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) > 0.9)
    (found,) = find_products(trace(model.eval(), (torch.randn(*shape),), {}).graph)
    return found


LAYERS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Linear(64, 32), (4, 64)),
    (lambda: nn.Linear(64, 32, bias=False), (2, 3, 64)),
    (lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2), (3, 8, 11, 9)),
    (lambda: nn.Conv2d(8, 12, (2, 3), padding="same", dilation=2), (3, 8, 11, 9)),
    (lambda: nn.Conv1d(8, 12, 3, padding=1), (3, 8, 11)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_what_is_timed_is_the_same_layer_both_ways(
    make: Callable[[], nn.Module], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    product = product_of(make(), *shape)
    outputs: list[Any] = []

    def interleaved(_: Stopwatch, candidates: list[Callable[[], Any]]) -> list[float]:
        with torch.no_grad():
            outputs.extend(candidate() for candidate in candidates)
        return [2.0, 1.0]

    monkeypatch.setattr(Stopwatch, "_interleaved", interleaved)
    assert Stopwatch("fp32", None)(product, work_of(product)) == (True, 2.0, "measured")
    dense, sparse = outputs
    assert sparse.numel() == work_of(product).positions * product.weight.shape[0]
    torch.testing.assert_close(sparse, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dense", "sparse", "chosen"), [(3.0, 1.0, True), (1.0, 1.0, False), (1.0, 3.0, False)])
def test_the_faster_is_chosen(monkeypatch: pytest.MonkeyPatch, dense: float, sparse: float, chosen: bool) -> None:
    product = product_of(nn.Linear(64, 32), 4, 64)
    monkeypatch.setattr(Stopwatch, "_interleaved", lambda *_: [dense, sparse])
    assert Stopwatch("fp32", None)(product, work_of(product)) == (chosen, dense / sparse, "measured")


def test_what_was_told_or_has_no_zeros_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopwatch, "_interleaved", None)
    product = product_of(nn.Linear(64, 32), 4, 64)
    work = work_of(product)
    for told in ("sparse", "dense"):
        decide = Stopwatch("fp32", {"weight": told})
        assert decide(product, work) == (told == "sparse", gain(work), "as told")
    full = Work(32, 64, 32 * 64, 4, 256)
    assert Stopwatch("fp32", None)(product, full) == (False, gain(full), "no zeros")


def test_medians_of_calls_in_turn_without_the_first(clock: Clock) -> None:
    order: list[str] = []

    def of(name: str, *seconds: float) -> Callable[[], None]:
        call = clock.taking(*seconds)

        def named() -> None:
            order.append(name)
            call()

        return named

    stopwatch = Stopwatch("fp32", None)
    got = stopwatch._interleaved([of("a", 100, 1, 1, 1, 2, 9, 9, 9), of("b", 50, 4, 4, 4, 5, 6, 6, 6)])
    assert got == [2, 5]
    assert "".join(order) == "ab" * (len(order) // 2)
    assert float(stopwatch._sweep[0]) == len(order)  # weights are cold again before each call


def test_whole_models_are_warm(clock: Clock) -> None:
    # A call before the one that counts: of each pair the second.
    assert seconds_of([clock.taking(100, 1, 100, 1, 100, 1, 2), clock.taking(5)], repeats=3) == [1, 5]


@pytest.mark.parametrize(("dense", "sparse", "chosen"), [(1.0, 0.25, "sparse"), (0.25, 1.0, "dense")])
def test_the_clock_decides_in_a_model(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, dense: float, sparse: float, chosen: str
) -> None:
    def slow(plain: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def delayed(*args: Any, **kwargs: Any) -> Any:
            clock.now += seconds
            return plain(*args, **kwargs)

        return delayed

    model = nn.Sequential(nn.Linear(64, 32)).eval()
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(32, 64) > 0.9)
    monkeypatch.setattr(nn.functional, "linear", slow(nn.functional.linear, dense))
    monkeypatch.setattr(SparseLinear, "forward", slow(SparseLinear.forward, sparse))
    fast = compiler.compile(model, torch.randn(4, 64), tune="measure")
    assert [(choice.choice, choice.gain) for choice in fast.choices] == [(chosen, dense / sparse)]
    x = torch.randn(5, 64)
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_layers_that_are_replaced_one_by_one_are_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class DataDependent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(4, 8, 3, padding=1), nn.Linear(8, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.linear(self.conv(x).mean((2, 3))) if x.sum() > 0 else x
            return result

    seen: list[tuple[int, ...]] = []

    def interleaved(_: Stopwatch, candidates: list[Callable[[], Any]]) -> list[float]:
        with torch.no_grad():
            dense, sparse = (candidate() for candidate in candidates)
        torch.testing.assert_close(sparse, dense, rtol=1e-4, atol=1e-5)
        seen.append(tuple(sparse.shape))
        return [2.0, 1.0]

    monkeypatch.setattr(Stopwatch, "_interleaved", interleaved)
    monkeypatch.setattr(compiler, "seconds_of", lambda *_: [2.0, 1.0])
    model = DataDependent().eval()
    with torch.no_grad():
        model.conv.weight[1:].zero_()
        model.linear.weight[1:].zero_()
    fast = compiler.compile(model, torch.rand(3, 4, 5, 6), tune="measure")
    assert [(choice.choice, choice.reason) for choice in fast.choices] == [("sparse", "measured")] * 2
    assert seen == [(3, 8, 5, 6), (3, 6)]
