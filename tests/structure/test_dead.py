"""Removing what is dead: the answers stay the same, whatever the input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import isogrid as ig
from isogrid.structure import Shrunk
from structure.networks import NETWORKS, Encoder, build, lively
from structure.test_shrink import answer, group


def removed(shrunk: Shrunk) -> dict[str, tuple[int, ...]]:
    """What went; nothing that was taken for dead may have been saved by the comparison of the outputs alone."""
    assert all("wrong" not in kept.reason for kept in shrunk.report.kept)
    return {found.name: found.removed for found in shrunk.report.groups if found.removed}


@pytest.mark.parametrize("name", NETWORKS)
def test_of_a_network_that_lives_nothing_goes(name: str) -> None:
    model, x = build(name)
    shrunk = ig.shrink(model, x)
    assert removed(shrunk) == {}
    assert torch.equal(answer(shrunk.model, x), answer(model, x))


def test_a_channel_whose_norm_puts_out_nothing_goes() -> None:
    model, x = build("resnet")
    for own in (model.layer1.bn1.weight, model.layer1.bn1.bias):
        own.data[[1, 4]] = 0
    shrunk = ig.shrink(model, x)
    assert removed(shrunk) == {"layer1.conv1": (1, 4)}
    other = torch.randn_like(x)
    torch.testing.assert_close(answer(shrunk.model, other), answer(model, other))


def test_a_channel_of_a_residual_stream_goes_only_when_every_branch_is_silent() -> None:
    model, x = build("resnet")

    def silence(*norms: nn.Module) -> None:
        for norm in norms:
            norm.weight.data[3] = norm.bias.data[3] = 0

    silence(model.layer1.bn2)
    assert removed(ig.shrink(model, x)) == {}
    silence(model.stem[1])
    shrunk = ig.shrink(model, x)
    assert removed(shrunk) == {"stem.0": (3,)}
    other = torch.randn_like(x)
    torch.testing.assert_close(answer(shrunk.model, other), answer(model, other))


def test_a_channel_that_is_constant_but_not_zero_stays() -> None:
    model, x = build("resnet")
    model.layer1.bn1.weight.data[1] = 0
    model.layer1.bn1.bias.data[1] = 1
    assert removed(ig.shrink(model, x)) == {}


def test_an_activation_that_makes_something_of_nothing_keeps_its_unit() -> None:
    for activation, goes in ((nn.Sigmoid(), False), (nn.GELU(), True), (nn.Softplus(), False), (nn.Hardswish(), True)):
        model = nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 2))
        model[0].weight.data[2] = model[0].bias.data[2] = 0
        assert (removed(ig.shrink(model, torch.randn(2, 3))) == {"0": (2,)}) is goes, activation


def test_a_unit_that_nothing_reads_goes_and_what_only_it_read_goes_with_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 2))
    model[4].weight.data[:, 5] = 0  # nothing reads unit 5 ...
    model[2].weight.data[:5, 1] = 0  # ... which alone reads unit 1
    x = torch.randn(4, 3)
    shrunk = ig.shrink(model, x)
    assert removed(shrunk) == {"0": (1,), "2": (5,)}
    torch.testing.assert_close(answer(shrunk.model, x), answer(model, x))


def test_channels_behind_a_flatten_go_with_all_their_columns() -> None:
    model, x = build("lenet")
    model.fc1.weight.data.view(20, 16, 4)[:, 7] = 0
    shrunk = ig.shrink(model, x)
    assert removed(shrunk) == {"conv2": (7,)}
    assert shrunk.model.fc1.in_features == 60
    torch.testing.assert_close(answer(shrunk.model, x), answer(model, x))
    model.fc1.weight.data[0, 28] = 1
    assert removed(ig.shrink(model, x)) == {}


def test_a_head_whose_output_or_whose_values_are_zero_goes() -> None:
    torch.manual_seed(0)
    model = Encoder()
    lively(model)
    one, two = (layer.self_attn for layer in model.encoder.layers)
    one.out_proj.weight.data[:, 4:8] = 0
    two.in_proj_weight.data[32:36] = 0
    two.in_proj_bias.data[32:36] = 0
    x = torch.randint(0, 20, (3, 5))
    shrunk = ig.shrink(model, x)
    assert removed(shrunk) == {
        "encoder.layers.0.self_attn.in_proj_weight": (1,),
        "encoder.layers.1.self_attn.in_proj_weight": (0,),
    }
    torch.testing.assert_close(answer(shrunk.model, x), answer(model, x))


def test_what_is_computed_and_thrown_away_keeps_nothing_alive() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x, x, x)[0]  # and not the weights, the mean over all heads

    torch.manual_seed(0)
    model = Attending()
    model.inner.out_proj.weight.data[:, 2:4] = 0
    x = torch.randn(3, 2, 8)
    shrunk = ig.shrink(model, x)
    assert removed(shrunk) == {"inner.in_proj_weight": (1,)}
    torch.testing.assert_close(answer(shrunk.model, x), answer(model, x))


def test_a_feature_that_a_norm_counts_stays() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    model[0].weight.data[2] = model[0].bias.data[2] = 0
    model[2].weight.data[:, 2] = 0
    assert removed(ig.shrink(model, torch.randn(2, 3))) == {}


def test_a_network_that_is_all_dead_keeps_one_unit_of_each_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    model[2].weight.data.zero_()
    x = torch.randn(2, 3)
    shrunk = ig.shrink(model, x)
    assert group(shrunk, "0").after == 1
    torch.testing.assert_close(shrunk.model(x), model(x))


def test_what_is_written_into_zeros_is_not_taken_for_zero() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            room = torch.zeros_like(h)
            room[:1], room[1:] = h[:1], h[1:]
            return self.b(room)

    torch.manual_seed(0)
    model, x = Written(), torch.randn(2, 3)
    assert removed(ig.shrink(model, x)) == {}
    assert group(ig.shrink(model, x, sparsity=0.5), "a").after == 2


@settings(max_examples=6)
@given(name=st.sampled_from(["mlp", "unet", "mobilenet"]), seed=st.integers(0, 99), data=st.data())
def test_zeroing_all_that_reads_any_unit_makes_it_go_and_changes_nothing(
    name: str, seed: int, data: st.DataObject
) -> None:
    model, x = build(name, seed)
    alive = ig.shrink(model, x)
    chosen = data.draw(st.sampled_from(alive.report.groups))
    unit = data.draw(st.integers(0, chosen.before - 1))
    parameters = dict(model.named_parameters())
    # Its own rows and their shifts: then every activation of these networks is zero there.
    for name_, axis in chosen.parameters:
        if axis == 0 and name_ in parameters and parameters[name_].shape[0] == chosen.before:
            parameters[name_].data[unit] = 0
        if axis == 1 and name_.startswith("up.") and name_ in parameters:
            parameters[name_].data[:, unit] = 0
    shrunk = ig.shrink(model, x)
    torch.testing.assert_close(answer(shrunk.model, x), answer(model, x))
    if name != "unet":
        assert unit in group(shrunk, chosen.name).removed
