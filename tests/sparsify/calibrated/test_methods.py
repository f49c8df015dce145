"""Wanda, SparseGPT and ALPS: what every method promises, and how near each stays to the dense layer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from conformance.methods import CalibratedMethodConformance
from conformance.training import batch, small_model
from isogrid.errors import DataError, PatternError, TrainingError, UnsupportedError, UsageError
from isogrid.patterns import FanIn, Row, active_count, parse_pattern
from isogrid.sparsify import ALPS, Method, OneShot, SparseGPT, Wanda, parse_method, prune


class TestWanda(CalibratedMethodConformance):
    method = Wanda(sparsity=0.5)


class TestWandaInALayer(CalibratedMethodConformance):
    method = Wanda(sparsity=0.6, pattern="unstructured")


class TestWandaInRows(CalibratedMethodConformance):
    method = Wanda(sparsity=0.5, pattern="row")


class TestSparseGPT(CalibratedMethodConformance):
    method = SparseGPT(sparsity=0.6, damping=0.02, block_size=5)


class TestSparseGPTInAPattern(CalibratedMethodConformance):
    method = SparseGPT(pattern="2:4")


class TestSparseGPTInBlocks(CalibratedMethodConformance):
    method = SparseGPT(sparsity=0.4, pattern="block:2x2")


class TestALPS(CalibratedMethodConformance):
    method = ALPS(sparsity=0.6, rho=0.2, iterations=50, refinements=5)


class TestALPSInAPattern(CalibratedMethodConformance):
    method = ALPS(pattern="2:4")


ALL = (Wanda, SparseGPT, ALPS)


def inputs(samples: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return x * torch.rand(columns, generator=generator).mul(3).exp()


def linear(outputs: int, columns: int, seed: int = 1, **options: Any) -> nn.Linear:
    layer = nn.Linear(columns, outputs, bias=False)
    layer.weight.data = torch.randn(outputs, columns, generator=torch.Generator().manual_seed(seed))
    return layer.to(**options)


def error(layer: nn.Linear, x: Tensor, dense: Tensor) -> float:
    change = layer.weight.detach().double() - dense.double()
    return float((x.double() @ change.T).square().sum())


@pytest.mark.parametrize(
    ("pattern", "sparsity"),
    [
        ("unstructured", 0.5),
        ("unstructured", 0.8),
        ("2:4", None),
        ("block:4x1", 0.5),
        ("fan_in", 0.7),
        ("channel", 0.5),
    ],
)
def test_the_more_a_method_does_the_nearer_it_stays(pattern: str, sparsity: float | None) -> None:
    wanda = "fan_in" if pattern == "unstructured" else pattern
    methods = (
        OneShot(sparsity, pattern),
        Wanda(sparsity, wanda),
        SparseGPT(sparsity, pattern),
        ALPS(sparsity, pattern),
    )
    total = [0.0] * len(methods)
    for seed in range(5):
        x = inputs(200, 32, seed)
        for i, method in enumerate(methods):
            layer = linear(24, 32)
            dense = layer.weight.detach().clone()
            prune(layer, method, data=[x])
            total[i] += error(layer, x, dense) / float((x @ dense.T).square().sum())
    assert all(better < 0.97 * worse for worse, better in itertools.pairwise(total)), total


def test_wanda_ranks_weights_times_the_norms_of_their_inputs_within_each_output() -> None:
    x = inputs(50, 10)
    layer = linear(4, 10)
    dense = layer.weight.detach().clone()
    prune(layer, Wanda(sparsity=0.5), data=[x[:20], x[20:]])
    scores = (dense.abs() * x.norm(dim=0)).numpy()
    kept = np.argsort(-scores, axis=1)[:, :5]
    wanted = np.zeros((4, 10), bool)
    np.put_along_axis(wanted, kept, True, axis=1)
    assert torch.equal(layer.weight, dense * torch.from_numpy(wanted))
    assert Wanda(sparsity=0.5).pattern == FanIn()


@pytest.mark.parametrize("keep", [2, 3, 4])
def test_alps_finds_supports_near_the_best_and_the_best_weights_on_them(keep: int) -> None:
    found_best = 0
    for seed in range(10):
        x = inputs(40, 6, seed).double()
        layer = linear(1, 6, seed, dtype=torch.float64)
        dense = layer.weight.detach().clone()
        prune(layer, ALPS(sparsity=1 - keep / 6, damping=1e-9), data=[x])
        best = {}
        for support in itertools.combinations(range(6), keep):
            kept = x[:, list(support)]
            solution = torch.linalg.lstsq(kept, x @ dense.T).solution
            best[support] = float((x @ dense.T - kept @ solution).square().sum())
        support = tuple(layer.weight[0].nonzero().flatten().tolist())
        assert len(support) == keep
        assert error(layer, x, dense) == pytest.approx(best[support], rel=1e-6)
        found_best += best[support] == min(best.values())
    assert found_best >= 5


@pytest.mark.parametrize("kind", ALL)
def test_allocations_share_a_sparsity_out(kind: type[Method]) -> None:
    shares = {}
    for allocation in ("uniform", "erk", "global", "owl"):
        model = small_model()
        report = prune(model, kind(sparsity=0.7, allocation=allocation), data=[batch(0)])  # type: ignore[call-arg]
        shares[allocation] = report.layers
    assert shares["uniform"]["0.weight"] == pytest.approx(0.7, abs=0.06)
    assert shares["erk"]["0.weight"] > shares["erk"]["2.weight"]
    assert shares["global"]["0.weight"] != shares["global"]["2.weight"]


def test_ranking_allocations_are_given_weights_times_norms() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    x = inputs(30, 8)
    with torch.no_grad():
        norms = [x.norm(dim=0), model[0](x).norm(dim=0)]
    scores = torch.stack([layer.weight.detach().abs() * norm for layer, norm in zip(model, norms, strict=True)])
    report = prune(model, Wanda(sparsity=0.5, pattern="unstructured", allocation="global"), data=[x])
    wanted = scores >= scores.flatten().sort(descending=True).values[63]
    assert [int(mask.sum()) for mask in report.masks.values()] == wanted.sum(dim=(1, 2)).tolist()
    assert torch.equal(report.masks["0.weight"], wanted[0])


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_computed_in_float32_or_better(kind: type[Method], dtype: torch.dtype) -> None:
    x = (inputs(60, 16) / 50).to(dtype)
    layer = linear(8, 16, dtype=dtype)
    dense = layer.weight.detach().clone()
    report = prune(layer, kind(sparsity=0.5), data=[x])  # type: ignore[call-arg]
    assert layer.weight.dtype == dtype
    assert report.sparsity == 0.5
    exact = linear(8, 16, dtype=torch.float64)
    exact.weight.data = dense.double()
    prune(exact, kind(sparsity=0.5), data=[x.double()])  # type: ignore[call-arg]
    assert error(layer, x, dense) == pytest.approx(error(exact, x, dense), rel=0.1)


@pytest.mark.parametrize("kind", ALL)
def test_weights_that_lie_oddly_in_memory_are_pruned_in_place(kind: type[Method]) -> None:
    x = inputs(40, 12)
    plain, odd = linear(8, 12), linear(8, 12)
    odd.weight = nn.Parameter(torch.empty(12, 8).T.copy_(plain.weight.detach()))
    before = odd.weight.data_ptr()
    for layer in (plain, odd):
        prune(layer, kind(sparsity=0.5), data=[x])  # type: ignore[call-arg]
    assert odd.weight.data_ptr() == before
    torch.testing.assert_close(plain.weight, odd.weight)


@pytest.mark.parametrize("kind", ALL)
def test_inputs_that_are_always_zero_lose_their_weights_first(kind: type[Method]) -> None:
    x = inputs(40, 12)
    x[:, 3:6] = 0
    layer = linear(8, 12)
    dense = layer.weight.detach().clone()
    prune(layer, kind(sparsity=0.25, pattern="fan_in"), data=[x])  # type: ignore[call-arg]
    assert not layer.weight[:, 3:6].any()
    torch.testing.assert_close(layer.weight[:, [0, 1, 2, *range(6, 12)]], dense[:, [0, 1, 2, *range(6, 12)]])


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("x", [torch.zeros(5, 12), torch.ones(1, 12), inputs(1, 12), torch.zeros(0, 12)])
def test_little_data_is_enough_to_get_an_answer(kind: type[Method], x: Tensor) -> None:
    layer = linear(8, 12)
    report = prune(layer, kind(sparsity=0.5), data=[x])  # type: ignore[call-arg]
    assert report.sparsity == 0.5
    assert bool(torch.isfinite(layer.weight).all())


def test_without_any_input_sparsegpt_is_magnitude_in_blocks_and_corrects_nothing() -> None:
    layer = linear(8, 12)
    dense = layer.weight.detach().clone()
    report = prune(layer, SparseGPT(sparsity=0.5), data=[torch.zeros(3, 12)])
    assert torch.equal(layer.weight, dense * report.masks["weight"])
    assert dense.abs()[report.masks["weight"]].min() > dense.abs()[~report.masks["weight"]].max()


@pytest.mark.parametrize("kind", ALL)
def test_data_that_is_not_finite_is_refused_before_anything_is_touched(kind: type[Method]) -> None:
    for bad in (float("nan"), float("inf")):
        model = small_model()
        x = torch.randn(6, 12)
        x[2, 3] = bad
        with pytest.raises(DataError, match=r"The input of 0\.weight on the data is not finite; only finite"):
            prune(model, kind(sparsity=0.5), data=[torch.randn(6, 12), x])  # type: ignore[call-arg]
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), small_model().parameters(), strict=True))


def test_inputs_whose_squares_overflow_are_refused() -> None:
    with pytest.raises(DataError, match="The squared inputs of weight on the data are not finite; accepted are inputs"):
        prune(linear(4, 8), SparseGPT(sparsity=0.5), data=[torch.full((2, 8), 1e30)])


def test_weights_that_are_not_finite_are_refused() -> None:
    model = small_model()
    model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"2\.weight are not finite"):
        prune(model, SparseGPT(sparsity=0.5), data=[batch(0)])


@pytest.mark.parametrize("kind", ALL)
def test_recurrent_weights_and_embeddings_are_refused_by_name(kind: type[Method]) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.memory, self.out = nn.Embedding(9, 4), nn.LSTM(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.memory(self.words(x))[0])

    data = [torch.randint(9, (3, 2))]
    with pytest.raises(UnsupportedError, match=r"recurrent weights, memory\.weight_ih_l0, memory.*ignore="):
        prune(Reader(), kind(sparsity=0.5), data=data)  # type: ignore[call-arg]
    with pytest.raises(UnsupportedError, match=r"embedding weights, words\.weight;"):
        prune(Reader(), kind(sparsity=0.5), data=data, targets=["words", "out"])  # type: ignore[call-arg]
    assert prune(Reader(), kind(sparsity=0.5), data=data, ignore="memory").sparsity == 0.5  # type: ignore[call-arg]


def test_a_target_that_the_data_never_reaches_is_refused_by_name() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) @ self.other.weight.T

    with pytest.raises(UnsupportedError, match=r"^idle\.weight, other\.weight met no input in a linear layer"):
        prune(Idle(), SparseGPT(sparsity=0.5), data=[torch.randn(3, 4)])


@pytest.mark.parametrize("kind", [SparseGPT, ALPS])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_a_convolution_is_a_linear_layer_on_its_unfolded_input(kind: type[Method], pattern: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 4, 6, 6) * torch.rand(4, 1, 1).mul(3).exp()
    conv = nn.Conv2d(4, 8, 3, padding=1, stride=2, bias=False)
    unfolded = functional.unfold(x, 3, padding=1, stride=2).transpose(1, 2)
    weight = conv.weight.detach().flatten(1)
    if pattern == "2:4":  # runs of inputs at one place of the kernel
        order = torch.arange(36).reshape(4, 9).T.flatten()
        unfolded, weight = unfolded[..., order], weight[:, order]
    layer = nn.Linear(36, 8, bias=False)
    layer.weight.data = weight.clone()
    prune(conv, kind(sparsity=0.5, pattern=pattern), data=[x])  # type: ignore[call-arg]
    prune(layer, kind(sparsity=0.5, pattern=pattern), data=[unfolded])  # type: ignore[call-arg]
    got = conv.weight.detach().flatten(1)
    torch.testing.assert_close(got[:, order] if pattern == "2:4" else got, layer.weight, rtol=1e-3, atol=1e-4)
    assert parse_pattern(pattern).conforms((conv.weight != 0).detach().numpy())


@pytest.mark.parametrize("kind", [Wanda, SparseGPT])
def test_each_group_of_a_convolution_is_its_own_layer(kind: type[Method]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, groups=2, bias=False)
    x = torch.randn(3, 4, 6, 6)
    halves = [nn.Conv2d(2, 3, 3, bias=False) for _ in range(2)]
    for i, half in enumerate(halves):
        half.weight.data = conv.weight.detach()[3 * i : 3 * i + 3].clone()
        prune(half, kind(sparsity=0.5, pattern="fan_in"), data=[x[:, 2 * i : 2 * i + 2]])  # type: ignore[call-arg]
    prune(conv, kind(sparsity=0.5, pattern="fan_in"), data=[x])  # type: ignore[call-arg]
    torch.testing.assert_close(conv.weight, torch.cat([half.weight for half in halves]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
        (lambda: nn.Conv3d(2, 4, 2), (1, 2, 4, 4, 4)),
        (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), (2, 3, 4, 4)),
        (lambda: nn.Conv2d(6, 6, 3, groups=6), (2, 6, 7, 7)),
    ],
    ids=["conv1d", "conv3d", "transposed", "depthwise"],
)
def test_other_convolutions(kind: type[Method], layer: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    made = layer()
    x = torch.randn(shape)
    with torch.no_grad():
        wanted = made(x)
    report = prune(made, kind(sparsity=0.25, pattern="unstructured"), data=[x], targets="weight")  # type: ignore[call-arg]
    assert int(report.masks["weight"].sum()) == active_count(made.weight.numel(), 0.25)
    with torch.no_grad():
        assert float((made(x) - wanted).norm()) < 0.3 * float(wanted.norm())


def test_a_shared_weight_sees_the_inputs_of_all_its_places() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x[:, :6]) + self.two(x[:, 6:])

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(30, 12)
    alone = nn.Linear(6, 6, bias=False)
    alone.weight.data = model.one.weight.detach().clone()
    report = prune(model, SparseGPT(sparsity=0.5), data=[x])
    prune(alone, SparseGPT(sparsity=0.5), data=[torch.cat([x[:, :6], x[:, 6:]])])
    assert list(report.layers) == ["one.weight"]
    torch.testing.assert_close(model.two.weight, alone.weight)


@pytest.mark.parametrize("kind", [Wanda, SparseGPT])
def test_attention_is_three_layers_and_one(kind: type[Method]) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    query, key, value = (torch.randn(4, 5, 8) for _ in range(3))
    parts = [nn.Linear(8, 8, bias=False) for _ in range(3)]
    for i, (part, x) in enumerate(zip(parts, (query, key, value), strict=True)):
        part.weight.data = attention.in_proj_weight.detach()[8 * i : 8 * i + 8].clone()
        prune(part, kind(sparsity=0.5, pattern="fan_in"), data=[x])  # type: ignore[call-arg]

    def forward(model: nn.Module, batch: Any) -> Any:
        return model(*batch)

    report = prune(attention, kind(sparsity=0.5, pattern="fan_in"), data=[(query, key, value)], forward=forward)  # type: ignore[call-arg]
    wanted = torch.cat([part.weight for part in parts])
    torch.testing.assert_close(attention.in_proj_weight, wanted, rtol=1e-3, atol=1e-4)
    assert report.layers == {"in_proj_weight": 0.5, "out_proj.weight": 0.5}


@pytest.mark.parametrize("pattern", [Row(), "row"])
def test_a_pattern_that_a_sweep_cannot_choose_in_is_refused(pattern: Any) -> None:
    with pytest.raises(PatternError, match="SparseGPT got pattern row; it chooses column by column, so accepted are"):
        SparseGPT(sparsity=0.5, pattern=pattern)
    assert ALPS(sparsity=0.5, pattern=pattern).sparsity == 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"damping": 0}, "damping=0; accepted is a number above 0"),
        ({"damping": float("nan")}, "damping=nan"),
        ({"damping": True}, "damping=True"),
        ({"block_size": 0}, "block_size=0; accepted is a whole number of columns"),
        ({"block_size": 2.0}, r"block_size=2\.0"),
    ],
)
def test_options_of_sparsegpt_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"SparseGPT got {said}"):
        SparseGPT(sparsity=0.5, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"damping": -1.0}, r"damping=-1\.0"),
        ({"rho": 0}, "rho=0; accepted is a number above 0"),
        ({"iterations": 0}, "iterations=0; accepted is a whole number"),
        ({"refinements": True}, "refinements=True"),
    ],
)
def test_options_of_alps_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"ALPS got {said}"):
        ALPS(sparsity=0.5, **options)


def test_they_are_known_by_name() -> None:
    assert parse_method("wanda", sparsity=0.5) == Wanda(sparsity=0.5)
    assert parse_method("sparsegpt", pattern="2:4", damping=0.1) == SparseGPT(pattern="2:4", damping=0.1)
    assert parse_method("alps", sparsity=0.5, rho=1.0) == ALPS(sparsity=0.5, rho=1.0)
