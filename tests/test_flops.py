from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from isogrid.errors import UnsupportedError, UsageError
from isogrid.flops import FlopCount, count_flops
from isogrid.masks import find_targets


def test_linear_and_convolution_by_their_formulas() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 5))
    count = count_flops(net, torch.zeros(2, 3, 8, 8))
    assert count.layers == {"0.weight": 2 * 2 * 8 * 16 * 27, "3.weight": 2 * 2 * 128 * 5}
    assert (count.rest, count.samples) == (0, 2)


def test_grouped_convolutions_and_depthwise_ones_that_are_no_targets() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1, groups=2))
    count = count_flops(net, torch.zeros(1, 8, 5, 5))
    assert count.layers == {"1.weight": 2 * 25 * 4 * 4}
    assert count.rest == 2 * 25 * 8 * 9
    named = count_flops(net, torch.zeros(1, 8, 5, 5), targets=find_targets(net, ["0", "1"]))
    assert named.layers == {"0.weight": 2 * 25 * 8 * 9, "1.weight": 2 * 25 * 4 * 4}
    assert named.dense == count.dense


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_projections_are_told_from_its_own_products(need_weights: bool) -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x, need_weights=need_weights)[0]

    count = count_flops(Attend(), torch.randn(2, 5, 8))
    assert count.layers == {"attention.in_proj_weight": 2 * 10 * 8 * 24, "attention.out_proj.weight": 2 * 10 * 8 * 8}
    assert count.rest == 2 * (2 * 2 * 5 * 4 * 5) * 2
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_count_every_step_and_direction(kind: Any, gates: int) -> None:
    net = kind(6, 10, batch_first=True, bidirectional=True)
    count = count_flops(net, torch.randn(3, 7, 6))
    assert count.layers["weight_ih_l0"] == count.layers["weight_ih_l0_reverse"] == 2 * 21 * gates * 10 * 6
    assert count.layers["weight_hh_l0"] == 2 * 21 * gates * 10 * 10
    assert count.rest == 0


def test_a_packed_sequence_counts_its_real_steps() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(6, 10)

        def forward(self, x: torch.Tensor) -> Any:
            return self.rnn(nn.utils.rnn.pack_padded_sequence(x, [5, 2]))[1]

    assert count_flops(Packed(), torch.randn(5, 2, 6)).layers["rnn.weight_ih_l0"] == 2 * 7 * 30 * 6


def test_a_shared_weight_counts_each_use_and_the_model_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 4))
    net[3].weight = net[0].weight
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert count_flops(net, torch.randn(3, 4)).layers == {"0.weight": 2 * 2 * 3 * 16}
    assert net.training
    assert net[1].training
    assert not net[2].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_named_arguments_and_an_example_without_a_tensor() -> None:
    net = nn.Linear(4, 2)
    assert count_flops(net, {"input": torch.zeros(3, 4)}).samples == 3
    assert count_flops(net, (torch.zeros(3, 4),)).dense == 2 * 3 * 8
    with pytest.raises(UsageError, match="type int holds no tensor"):
        count_flops(net, 3)  # type: ignore[arg-type]


def test_a_recurrent_layer_that_gets_its_input_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 16)

        def forward(self, x: torch.Tensor) -> Any:
            return self.lstm(input=x)[0]

    x = torch.randn(5, 2, 8)
    expected = {"weight_ih_l0": 2 * 10 * 64 * 8, "weight_hh_l0": 2 * 10 * 64 * 16}
    assert count_flops(nn.LSTM(8, 16), {"input": x}).layers == expected
    assert count_flops(Named(), x).layers == {f"lstm.{name}": flops for name, flops in expected.items()}


class Cast(nn.Module):
    """A model under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 4))
        self.a = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found = self.m(x)
            answer: torch.Tensor = self.a(found, found, found)[0]
        return answer


def test_weights_that_autocast_casts_keep_their_names() -> None:
    net = Cast()
    plain = nn.Sequential(net.m, net.a)
    x = torch.randn(3, 8, 5)
    count = count_flops(net, x)
    assert count.layers["m.0.weight"] == 2 * 3 * 5 * 8 * 24
    assert count.layers["m.1.weight"] == 2 * 24 * 16 * 5
    assert count.layers["m.3.weight"] == 2 * 24 * 4 * 16
    assert count.layers["a.in_proj_weight"] == 2 * 24 * 4 * 12
    assert count.rest == 2 * (2 * 3 * 8 * 4 * 8)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = plain[0](x)  # leaves casts in autocast's memory
        assert count_flops(plain[0], x).rest == 0
        assert torch.is_autocast_cache_enabled()
        assert wanted.requires_grad


def test_weights_that_are_joined_share_the_product_and_what_is_joined_with_others_does_not() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(6, 5, bias=False), nn.Linear(6, 7, bias=False)
            self.free = nn.Parameter(torch.zeros(2, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            both = torch.cat([self.q.weight, self.k.weight])
            return x @ both.T + (x @ torch.cat([both, self.free]).T).sum()

    count = count_flops(Joined(), torch.randn(4, 6))
    assert count.layers == {"q.weight": 2 * 4 * 6 * 5, "k.weight": 2 * 4 * 6 * 7}
    assert count.rest == 2 * 4 * 6 * 14


def test_what_takes_the_memory_of_a_cast_weight_is_no_weight() -> None:
    class Busy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(32, 32, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.double() @ self.one.weight.double().T
            for _ in range(20):
                x = (x + 1) @ (x - 1)
            return x

    count = count_flops(Busy(), torch.randn(32, 32))
    assert count.layers == {"one.weight": 2 * 32**3}
    assert count.rest == 20 * 2 * 32**3


def test_a_copy_that_has_no_storage_is_let_pass() -> None:
    class Sparse(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + x.to_sparse().clone().double().to_dense().sum()

    assert count_flops(Sparse(4, 2), torch.ones(3, 4)).layers == {"weight": 2 * 3 * 8}


@pytest.mark.parametrize("example", [torch.zeros(2, 3), (torch.zeros(2, 4), 1), {"x": torch.zeros(2, 4)}])
def test_an_example_that_does_not_fit_is_refused_in_one_sentence(example: Any) -> None:
    net = nn.Linear(4, 2)
    with pytest.raises(UnsupportedError, match=r"^The model fails on the example \(.*\); accepted is what its forward"):
        count_flops(net, example)
    assert net.training


def test_a_training_step_is_three_passes_and_growth_by_gradient_a_dense_one_more() -> None:
    count = FlopCount({"a": 1000, "b": 500}, rest=100, samples=1)
    assert count.training_step({}, dense_gradients=False) == 3 * 1600
    sparse = 1000 * 0.1 + 500 + 100
    assert count.training_step({"a": 0.1}, dense_gradients=False) == pytest.approx(3 * sparse)
    # Evci et al. 2020: 2 f_S + f_D at an update.
    assert count.training_step({"a": 0.1}, dense_gradients=True) == pytest.approx(2 * sparse + 1600)
