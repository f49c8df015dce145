"""shrink: structured pruning of networks of every kind, and what the report says of it."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

import isogrid as ig
from isogrid.errors import DataError, TargetError, TrainingError, UnsupportedError, UsageError
from isogrid.evaluating import plain_attention
from isogrid.structure import Kept, ShrunkAttention, ShrunkGroup, Sums, UnitScore
from structure.networks import NETWORKS, Encoder, LeNet, ResNet, build, lively


class Drawn(UnitScore):
    """A different random choice for each seed."""

    name = "drawn"
    needs_data = False

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)

    def __call__(self, sums: Sums, weights: Any, products: Any) -> Tensor:
        return torch.rand(sums.units, generator=self.rng, dtype=torch.float64)


def answer(model: nn.Module, *inputs: Tensor) -> Tensor:
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        return copied(*inputs)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def group(shrunk: Any, name: str) -> ShrunkGroup:
    return next(found for found in shrunk.report.groups if found.name == name)


def reasons(shrunk: Any) -> dict[str, str]:
    return {kept.name: kept.reason for kept in shrunk.report.kept}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gets_smaller_and_computes_what_it_would_without_the_units(name: str) -> None:
    model, x = build(name)
    before = copy.deepcopy(model.state_dict())
    shrunk = ig.shrink(model, x, sparsity=0.5)
    assert shrunk.report.error < 1e-5
    assert all(found.after == found.before - found.before // 2 for found in shrunk.report.groups)
    assert shrunk.report.parameters_before == size(model)
    assert shrunk.report.parameters_after == size(shrunk.model) < 0.62 * size(model)
    assert shrunk.report.multiply_adds_after < 0.62 * shrunk.report.multiply_adds_before
    assert answer(shrunk.model, x).shape == answer(model, x).shape
    # Whatever the code of a network does, nothing but its input and its output stays as wide as it was.
    assert all("fails" not in kept.reason and "no rule" not in kept.reason for kept in shrunk.report.kept)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def blank(model: nn.Module, shrunk: Any) -> None:
    """Zero, in the original, every weight that reads a removed unit."""
    parameters = dict(model.named_parameters())
    for found in shrunk.report.groups:
        for name, axis in found.parameters:
            if axis == 1:
                weight = parameters[name].data
                weight.index_fill_(1, positions(weight.shape[1], found), 0)


def positions(width: int, found: ShrunkGroup) -> Tensor:
    """Where the removed units stand in an axis over which they lie in order, each as wide as the next."""
    each = width // found.before
    places = [unit * each + i for unit in found.removed for i in range(each)]
    return torch.tensor(places, dtype=torch.int64)


@settings(max_examples=6)
@given(name=st.sampled_from(["mlp", "lenet", "resnet"]), share=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_the_answer_is_that_of_the_original_with_the_units_blanked_out(name: str, share: float, seed: int) -> None:
    model, x = build(name, seed)
    shrunk = ig.shrink(model, x, sparsity=share, score=Drawn(seed))
    blank(model, shrunk)
    torch.testing.assert_close(answer(shrunk.model, x), answer(model, x))
    other = torch.randn_like(x)
    torch.testing.assert_close(answer(shrunk.model, other), answer(model, other))


def test_the_units_of_lowest_norm_go_and_the_order_of_the_others_stays() -> None:
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False))
    model[0].weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0], [2.0, 2.0], [1.0, 1.0]])
    model[2].weight.data = torch.tensor([[0.5, 4.0, 0.0, 0.0]])
    shrunk = ig.shrink(model, torch.ones(1, 2), sparsity=0.25)
    # Squared norms, both layers together: 9.25, 17, 8 and 2; the last two change nothing, so they go first.
    assert group(shrunk, "0").removed == (2, 3)
    model[2].weight.data = torch.tensor([[0.5, 4.0, 0.1, 3.0]])
    shrunk = ig.shrink(model, torch.ones(1, 2), sparsity=0.25)
    assert group(shrunk, "0").removed == (2,)
    assert shrunk.model[0].weight.tolist() == [[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    assert shrunk.model[2].weight.tolist() == [[0.5, 4.0, pytest.approx(3.0)]]


def test_features_that_a_norm_mixes_go_as_if_they_had_never_been() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    lively(model)
    x = torch.randn(4, 3)
    shrunk = ig.shrink(model, x, sparsity=0.5)
    kept = [unit for unit in range(6) if unit not in group(shrunk, "0").removed]
    hidden = nn.functional.linear(x, model[0].weight[kept], model[0].bias[kept])
    hidden = nn.functional.layer_norm(hidden, (3,), model[1].weight[kept], model[1].bias[kept])
    wanted = nn.functional.linear(hidden, model[2].weight[:, kept], model[2].bias)
    torch.testing.assert_close(shrunk.model(x), wanted)
    assert shrunk.model[1].normalized_shape == (3,)


def test_channels_of_a_residual_stream_go_together() -> None:
    model, x = build("resnet")
    shrunk = ig.shrink(model, x, sparsity={"stem.0": 0.25})
    assert [found.name for found in shrunk.report.groups if found.removed] == ["stem.0"]
    assert set(group(shrunk, "stem.0").parameters) == {
        ("stem.0.weight", 0),
        *((f"stem.1.{own}", 0) for own in ("weight", "bias", "running_mean", "running_var")),
        ("layer1.conv1.weight", 1),
        ("layer1.conv2.weight", 0),
        *((f"layer1.bn2.{own}", 0) for own in ("weight", "bias", "running_mean", "running_var")),
        ("layer2.0.conv1.weight", 1),
        ("layer2.0.downsample.0.weight", 1),
    }
    assert shrunk.model.layer1.conv2.weight.shape == (6, 8, 3, 3)
    assert shrunk.model.layer1.bn2.num_features == shrunk.model.layer1.conv2.out_channels == 6


def test_depthwise_convolutions_lose_their_groups() -> None:
    model, x = build("mobilenet")
    shrunk = ig.shrink(model, x, sparsity=0.5)
    depthwise = shrunk.model[1].body[3]
    assert depthwise.weight.shape == (12, 1, 3, 3)
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == 12


def test_a_grouped_convolution_keeps_its_groups() -> None:
    model, x = build("shufflenet")
    shrunk = ig.shrink(model, x, sparsity=0.5)
    assert (shrunk.model.b.groups, shrunk.model.b.in_channels, shrunk.model.b.out_channels) == (4, 8, 16)
    assert shrunk.model.norm.num_channels == 16
    assert shrunk.model.up.groups == 2


@pytest.mark.parametrize(("batch_first", "norm_first"), [(True, False), (False, True)])
def test_a_transformer_loses_heads_hidden_units_and_features(batch_first: bool, norm_first: bool) -> None:
    torch.manual_seed(0)
    model = Encoder(batch_first=batch_first, norm_first=norm_first)
    lively(model)
    x = torch.randint(0, 20, (5, 5))
    shrunk = ig.shrink(model, x, sparsity=0.5, heads=0.25)
    assert {(found.name, found.kind, found.before, found.after) for found in shrunk.report.groups} == {
        ("tokens", "units", 16, 8),
        *((f"encoder.layers.{i}.self_attn.in_proj_weight", "heads", 4, 3) for i in (0, 1)),
        *((f"encoder.layers.{i}.linear1", "units", 24, 12) for i in (0, 1)),
    }
    attention = shrunk.model.encoder.layers[0].self_attn
    assert isinstance(attention, ShrunkAttention)
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (3, 4, 8)
    assert attention.in_proj_weight.shape == (36, 8)
    assert attention.out_proj.weight.shape == (8, 12)
    assert reasons(shrunk)["tokens"] == "is looked up by data in tokens"


def test_a_head_that_goes_is_the_head_that_the_original_no_longer_reads() -> None:
    torch.manual_seed(0)
    model = Encoder()
    x = torch.randint(0, 20, (5, 5))
    shrunk = ig.shrink(model, x, heads=0.5, sparsity=0)
    for i, layer in enumerate(model.encoder.layers):
        found = group(shrunk, f"encoder.layers.{i}.self_attn.in_proj_weight")
        assert (found.width, len(found.removed)) == (12, 2)
        layer.self_attn.out_proj.weight.data.index_fill_(1, positions(16, found), 0)
    torch.testing.assert_close(answer(shrunk.model, x), answer(model, x))


def test_the_number_of_heads_is_corrected_where_the_code_reads_it() -> None:
    model, x = build("vit")
    shrunk = ig.shrink(model, x, sparsity=0, heads=0.5)
    assert shrunk.model.attention.num_heads == 2
    assert shrunk.model.attention.qkv.weight.shape == (24, 16)
    assert shrunk.model.attention.norm.normalized_shape == (4,)


def test_heads_of_queries_go_with_the_keys_that_they_share() -> None:
    model, x = build("grouped_queries")
    shrunk = ig.shrink(model, x, sparsity=0, heads=0.5)
    assert shrunk.model.attention.q.out_features == 8
    assert shrunk.model.attention.k.out_features == 4


def test_a_size_that_the_code_repeats_is_named_and_the_rest_shrinks() -> None:
    model = LeNet(fixed=True)
    shrunk = ig.shrink(model, torch.randn(2, 1, 20, 20), sparsity=0.5)
    assert "forward fails without some of them" in reasons(shrunk)["conv2"]
    assert [found.name for found in shrunk.report.groups] == ["conv1", "fc1"]
    assert shrunk.model.conv1.out_channels == 3
    assert shrunk.model.conv2.out_channels == 16


class Halved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.cat([h[:, :4] * 2, h[:, 4:]], dim=1))


def test_a_cut_at_a_fixed_place_that_would_silently_mean_another_one_is_refused() -> None:
    torch.manual_seed(0)
    shrunk = ig.shrink(Halved(), torch.randn(3, 4), sparsity=0.5)
    assert "outputs are wrong by" in reasons(shrunk)["a"]
    assert shrunk.report.parameters_after == shrunk.report.parameters_before


class Uneven(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, _ = self.a(x).split([3, 5], dim=1)
        return self.b(first)


def test_a_cut_into_unequal_parts_is_named() -> None:
    shrunk = ig.shrink(Uneven(), torch.randn(3, 4), sparsity=0.5)
    assert reasons(shrunk)["a"] == "is cut at fixed places in the model"


def test_an_operation_without_a_rule_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LSTM(6, 5, batch_first=True))
    shrunk = ig.shrink(model, torch.randn(2, 3, 4), sparsity=0.5)
    assert "mkldnn_rnn_layer in 1, for which there is no rule" in reasons(shrunk)["0"]
    assert "goes through mkldnn_rnn_layer" in reasons(shrunk)["1.weight_ih_l0"]


def test_parameters_that_the_example_does_not_reach_are_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)

    assert reasons(ig.shrink(Two(), torch.randn(2, 4)))["b"] == "is not used on the example"


def test_the_report_counts_what_is_there() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    report = ig.shrink(model, torch.ones(5, 4), sparsity=0.5).report
    assert (report.parameters_before, report.parameters_after) == (4 * 8 + 8 + 8 * 3 + 3, 4 * 4 + 4 + 4 * 3 + 3)
    assert (report.multiply_adds_before, report.multiply_adds_after) == (5 * (4 * 8 + 8 * 3), 5 * (4 * 4 + 4 * 3))
    assert report.kept == (
        Kept("inputs of 0", 4, "meets in 0 what cannot shrink"),
        Kept("2", 3, "reaches the model's output"),
    )
    assert "0: 8 -> 4 units" in str(report)


def test_sizes_are_rounded_up_and_a_minimum_is_kept() -> None:
    model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.ones(1, 4)
    assert [found.after for found in ig.shrink(model, x, sparsity=0.7, round_to=8).report.groups] == [16, 6]
    assert [found.after for found in ig.shrink(model, x, sparsity=0.99, minimum=3).report.groups] == [3, 3]
    assert [found.after for found in ig.shrink(model, x, sparsity=0.99).report.groups] == [1, 1]


def test_a_global_ranking_takes_more_where_units_are_weak() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2))
    model[0].weight.data[:12] *= 1e-3
    model[0].bias.data[:12] *= 1e-3
    model[2].weight.data[:, :12] *= 1e-3
    shrunk = ig.shrink(model, torch.ones(1, 4), sparsity=0.5, allocation="global")
    first, second = shrunk.report.groups
    assert len(first.removed) + len(second.removed) == 20
    assert set(range(12)) <= set(first.removed)
    assert len(second.removed) <= 8


def test_a_score_by_gradients_keeps_what_the_loss_needs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model[0].weight.data[2:] = 5.0  # large, but what they put out cancels for these inputs
    x = torch.tensor([[1.0, -1.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0]])
    model[0].bias.data.zero_()
    data = [(x, torch.tensor([0, 1]))]
    shrunk = ig.shrink(model, x, sparsity=0.6, score="taylor", data=data)
    assert set(group(shrunk, "0").removed) <= {2, 3, 4, 5}
    assert set(group(ig.shrink(model, x, sparsity=0.3), "0").removed) == {0}


def test_layers_to_be_ignored_stay_whole() -> None:
    model, x = build("mlp")
    shrunk = ig.shrink(model, x, sparsity=0.5, ignore=r"2\..*")
    assert [found.after for found in shrunk.report.groups] == []
    assert reasons(shrunk)["0"] == reasons(shrunk)["2"] == "is to be ignored"
    shrunk = ig.shrink(model, x, sparsity={"0": 0.25, r"[02]": 0.5})
    assert [found.after for found in shrunk.report.groups] == [12, 4]


def test_modes_flags_and_sharing_survive() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)
            self.again = self.inner
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
            self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.again(torch.relu(self.inner(self.first(x)))) * self.frozen)

    model = Tied()
    model.train()
    model.last.eval()
    shrunk = ig.shrink(model, torch.randn(3, 4), sparsity=0.5).model
    assert shrunk.training
    assert not shrunk.last.training
    assert shrunk.inner is shrunk.again
    assert shrunk.inner.weight.shape == (4, 4)
    assert not shrunk.frozen.requires_grad
    assert shrunk.first.weight.requires_grad
    model.inner.weight.data.zero_()
    assert bool(shrunk.inner.weight.any())


def test_the_smaller_model_trains_saves_loads_and_copies() -> None:
    model, x = build("resnet")
    first = ig.shrink(model, x, sparsity=0.5).model
    second = ig.shrink(model, x, sparsity=0.5).model
    first.train()(x).sum().backward()
    torch.optim.SGD(first.parameters(), 0.1).step()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(answer(first, x), answer(second, x))
    buffer = io.BytesIO()
    torch.save(first, buffer)
    buffer.seek(0)
    torch.testing.assert_close(answer(torch.load(buffer, weights_only=False), x), answer(first, x))
    assert size(pickle.loads(pickle.dumps(first))) == size(first)
    again = ig.shrink(first, x, sparsity=0.5)
    assert again.report.parameters_before == size(first)


def test_the_smaller_transformer_is_exported_and_keeps_the_fast_path_out() -> None:
    torch.manual_seed(0)
    model = Encoder()
    x = torch.randint(0, 20, (2, 5))
    shrunk = ig.shrink(model, x, sparsity=0.5).model.eval()
    program = torch.export.export(shrunk, (x,))
    torch.testing.assert_close(program.module()(x), shrunk(x))
    with torch.no_grad():
        torch.testing.assert_close(shrunk(x), program.module()(x))


def test_examples_come_as_arguments_or_keywords() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
            return {"logits": self.b(self.a(x) * scale)}

    x = torch.ones(2, 3)
    for example in ((x, 2.0), {"x": x, "scale": 2.0}, x):
        assert ig.shrink(Sum(), example, sparsity=0.5).report.groups[0].after == 3


def test_zeros_inside_what_stays_are_kept() -> None:
    model, x = build("mlp")
    ig.prune(model, ig.OneShot(sparsity=0.5))
    shrunk = ig.shrink(model, x, sparsity=0.25)
    kept = [unit for unit in range(16) if unit not in group(shrunk, "0").removed]
    assert torch.equal(shrunk.model[0].weight, model[0].weight[kept])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"shrink got sparsity=1.0; accepted is a fraction in \[0, 1\)"),
        ({"sparsity": {"0": -1}}, r"shrink got sparsity for '0'=-1; accepted"),
        ({"heads": "all"}, r"shrink got heads='all'"),
        ({"minimum": 0}, r"shrink got minimum=0; accepted is a whole number >= 1"),
        ({"round_to": 2.0}, r"shrink got round_to=2.0"),
        ({"tolerance": -1.0}, r"shrink got tolerance=-1.0"),
        ({"tolerance": "x"}, r"shrink got tolerance='x'; accepted is a number >= 0"),
        ({"ignore": 3}, r"shrink got ignore=3; accepted are names"),
        ({"allocation": "erk"}, r"Unknown allocation 'erk'"),
        ({"score": "wanda"}, r"Unknown score 'wanda'.*: accepted are magnitude, taylor"),
        ({"score": 3}, r"shrink got score=3"),
        ({"score": "taylor", "sparsity": 0.5}, r"needs gradients and got no data"),
        ({"score": "taylor", "sparsity": 0.5, "data": [torch.ones(1, 6)]}, r"The loss of a batch of data is not known"),
        ({"score": "taylor", "sparsity": 0.5, "data": [(torch.ones(1, 6),)]}, r"loss of a batch of data is not known"),
        ({"ignore": "("}, r"no regular expression"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    model, x = build("mlp")
    with pytest.raises(UsageError, match=message):
        ig.shrink(model, x, **options)


def test_names_that_match_nothing_empty_data_and_broken_weights_are_refused() -> None:
    model, x = build("mlp")
    with pytest.raises(TargetError, match="sparsity entry '7' matches no layer"):
        ig.shrink(model, x, sparsity={"7": 0.5})
    with pytest.raises(TargetError, match="ignore entry 'fc' matches no parameter"):
        ig.shrink(model, x, ignore="fc")
    with pytest.raises(DataError, match="no batch"):
        ig.shrink(model, x, sparsity=0.5, score="taylor", data=[])
    with pytest.raises(UnsupportedError, match="fails on the example"):
        ig.shrink(model, torch.ones(2, 5))
    with pytest.raises(UnsupportedError, match="no tensor"):
        ig.shrink(Silent(), x)
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="Scores of 0 are not finite"):
        ig.shrink(model, x, sparsity=0.5)


class Silent(nn.Module):
    def forward(self, x: Tensor) -> int:
        return len(x)


def test_wrappers_are_seen_through() -> None:
    model = ResNet()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    assert isinstance(ig.shrink(averaged, torch.randn(2, 3, 12, 12), sparsity=0.5).model, ResNet)


class Mixed(nn.Module):
    """Attention whose keys get a row of zeros: heads and widths of it end up as one unit."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(10, 32) for _ in range(3))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True, add_zero_attn=True)
        self.last = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(self.query(x), self.key(x), self.value(x), need_weights=False)
        return self.last(mixed)


@pytest.mark.parametrize("sparsity", [None, 0.1])
def test_units_that_become_one_on_their_way_are_not_taken_for_dead(sparsity: float | None) -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    shrunk = ig.shrink(model, torch.randn(2, 5, 10), sparsity=sparsity)
    x = torch.randn(3, 7, 10)
    if sparsity is None:
        assert torch.allclose(answer(shrunk.model, x), answer(model, x), atol=1e-6)
    assert shrunk.model.query.out_features == (32 if sparsity is None else 29)
    assert all(found.after >= 0.9 * found.before - 1 for found in shrunk.report.groups)
    assert "goes all together or not at all in attention" in reasons(shrunk).values()


def test_what_seems_dead_beside_units_that_go_is_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)), torch.randn(4, 6)
    shrinking = importlib.import_module("isogrid.structure.shrink")
    follow = shrinking.trace

    def mistaken(*given: Any) -> Any:
        traced = follow(*given)
        traced.alive[traced.coupling.units.find(traced.sites["0.weight", 0])[:3]] = False
        return traced

    monkeypatch.setattr(shrinking, "trace", mistaken)
    shrunk = ig.shrink(model, x, sparsity={"1": 0.5, "0": 0.25})
    assert reasons(shrunk)["0"].startswith("without some of them the outputs are wrong by")
    assert shrunk.model[0].out_features == 8
    assert shrunk.model[1].out_features == 4


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("heads", [0.5, 0])
@pytest.mark.parametrize("masked", [True, False])
def test_a_shrunk_encoder_takes_padded_batches(heads: float, masked: bool) -> None:
    """As it is made by default: the original reads padded batches as nested tensors."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    assert model.use_nested_tensor
    x, padding = torch.randn(2, 5, 32), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    example = {"src": x, "src_key_padding_mask": padding} if masked else x
    small = ig.shrink(model, example, sparsity=0.5, heads=heads).model.eval()
    with torch.no_grad():
        found = small(x, src_key_padding_mask=padding)
        with plain_attention():
            wanted = small(x, src_key_padding_mask=padding)
    assert torch.allclose(found[~padding], wanted[~padding], atol=1e-5)


class Queries(nn.Module):
    """Learned tokens go through layers as views of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(3, 16))
        self.norm, self.first, self.last = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.tokens.unsqueeze(0)).mean(1) + self.first(x))


def test_views_of_parameters_may_be_handed_to_layers() -> None:
    torch.manual_seed(0)
    assert ig.shrink(Queries(), torch.randn(2, 16), sparsity=0.25).report.multiply_adds_after > 0


class Counting(nn.Module):
    """Its forward leaves traces in it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)
        self.calls, self.cache = 0, None
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        if self.cache is None:
            self.cache = torch.relu(self.first(x))
        return self.last(torch.relu(self.first(x)) + self.cache)


def test_neither_model_has_been_run() -> None:
    model = Counting()
    shrunk = ig.shrink(model, torch.randn(4, 6), sparsity=0.5)
    assert shrunk.model.first.out_features == 4
    for one in (model, shrunk.model):
        assert (one.calls, float(one.seen), one.cache) == (0, 0.0, None)


class Drawing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.dropout(self.first(x)))


@pytest.mark.parametrize("sparsity", [None, 0.5])
def test_a_model_that_draws_random_numbers_is_told_so(sparsity: float | None) -> None:
    with pytest.raises(UnsupportedError, match="answers the same example differently each time"):
        ig.shrink(Drawing(), torch.randn(4, 6), sparsity=sparsity)


def test_a_layer_under_a_mask_of_pytorch_says_how_large_it_is() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(UnsupportedError, match=r"The model cannot be copied .*fold what torch"):
        ig.shrink(model, torch.randn(4, 6), sparsity=0.5)
    with torch.no_grad():
        model(torch.randn(1, 6))
    small = ig.shrink(model, torch.randn(4, 6), sparsity=0.5).model
    assert (small[0].out_features, tuple(small[0].weight_orig.shape)) == (8, (8, 6))
    assert small(torch.randn(2, 6)).shape == (2, 2)


def test_a_single_head_is_named() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.attention = nn.Linear(8, 32), nn.MultiheadAttention(32, 1, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.attention(x, x, x)[0]

    shrunk = ig.shrink(Single(), torch.randn(2, 5, 8), sparsity=0.5)
    assert any("its one head is 32 wide" in reason.lower() for reason in reasons(shrunk).values())


@pytest.mark.parametrize(
    ("model", "example", "error", "message"),
    [
        (nn.Linear(2, 2, device="meta"), torch.ones(1, 2), UnsupportedError, "on the meta device"),
        ("model", torch.ones(1, 2), UnsupportedError, "shrink got str; accepted is a torch.nn.Module"),
        (nn.Linear(2, 2), None, UsageError, "shrink got NoneType for an example; accepted are a tensor"),
    ],
)
def test_what_is_no_model_and_what_is_no_example(model: Any, example: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ig.shrink(model, example)


def test_numbers_of_numpy_are_numbers() -> None:
    small = ig.shrink(
        nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.ones(1, 4), sparsity=np.float32(0.5), minimum=np.int64(2)
    )
    assert small.model[0].out_features == 4


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_model_is_refused() -> None:
    scripted = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(UnsupportedError, match="that is not scripted"):
        ig.shrink(scripted, torch.ones(1, 2))
