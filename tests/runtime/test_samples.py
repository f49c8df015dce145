"""Batches that are run piece by piece: only where no sample sees another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isogrid
from isogrid.runtime import samples
from isogrid.runtime.compiler import Compiled
from isogrid.runtime.tracing import trace


class Doing(nn.Module):
    """Calls a function, after a layer so that there is something to trace."""

    def __init__(self, function: Any, width: int = 6) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x))


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1),
        nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


def samples_of(model: nn.Module, *inputs: Any) -> samples.Samples | None:
    return trace(model.eval(), inputs, {}).samples


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(-1),
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: x.view(x.shape[0], 2, 3).transpose(1, 2).reshape(x.shape[0], 6),
        lambda x: torch.cat([x, x * 2], 1),
        lambda x: x.unsqueeze(1).matmul(x.unsqueeze(2)),
        lambda x: (x[:, :2], x.chunk(2, 1)[1]),
        lambda x: nn.functional.layer_norm(x, (6,)),
        lambda x: torch.cat([torch.ones(1, 6).expand(x.shape[0], 6), x], 1),
        lambda x: x + torch.arange(6),
    ],
)
def test_operations_that_keep_samples_apart(function: Any) -> None:
    assert samples_of(Doing(function), torch.randn(3, 6)) is not None


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(0),
        lambda x: x - x.mean(0),
        lambda x: x - x.mean(),
        lambda x: x.flip(0),
        lambda x: x.cumsum(0),
        lambda x: x.sort(0).values,
        lambda x: x.roll(1, 0),
        lambda x: x @ x.T,
        lambda x: x[0],
        lambda x: x[:1] + x,
        lambda x: x / x.shape[0],
        lambda x: x.T.reshape(x.shape[0], 6),
        lambda x: x.view(6, x.shape[0]).transpose(0, 1),
        lambda x: torch.cat([x, x], 0),
        lambda x: nn.functional.batch_norm(x, None, None, training=True),
        lambda x: nn.functional.dropout(x, 0.5, training=True),
        lambda x: (x, torch.ones(3)),
        lambda x: x.sum(),
        lambda x: x + torch.arange(x.shape[0])[:, None],
        lambda x: x + torch.rand(1, 6),
    ],
)
def test_operations_that_mix_them_or_may_do_so(function: Any) -> None:
    assert samples_of(Doing(function), torch.randn(3, 6)) is None


class Attending(nn.Module):
    """Self-attention over samples that are the first axis throughout."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = tokens.shape

        def split(x: Tensor) -> Tensor:
            return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        q, k, v = split(self.query(tokens)), split(self.key(tokens)), split(self.value(tokens))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.norm(tokens + mixed.transpose(1, 2).reshape(batch, length, width)).mean(1)


class Counting(nn.Module):
    """Adds how often it was called."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


def test_a_model_that_remembers_its_calls_is_called_once() -> None:
    assert samples_of(Counting(), torch.randn(3, 6)) is None


def test_networks_of_every_kind_are_cut() -> None:
    assert samples_of(small_net(), torch.randn(2, 3, 8, 8)) is not None
    assert samples_of(Attending(), torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)) is not None


def test_samples_that_are_not_the_first_axis_all_the_way_stay_together() -> None:
    assert samples_of(nn.TransformerEncoderLayer(16, 2, 32), torch.randn(5, 2, 16)) is None
    # It exchanges the first two axes and back.
    assert samples_of(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(2, 5, 16)) is None
    assert samples_of(nn.GRU(8, 8, batch_first=True), torch.randn(2, 5, 8)) is None


def test_a_piece_is_as_large_as_its_largest_activation_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small_net()
    largest = 4 * 8 * 8 * 8  # after the first convolution
    for pieces, wanted in ((1, 1), (3 * largest, 3), (4 * largest - 1, 3)):
        monkeypatch.setattr(samples, "PIECE_BYTES", pieces)
        found = samples_of(net, torch.randn(2, 3, 8, 8))
        assert found is not None
        assert found.piece == wanted


class Two(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        both = self.left(x) + self.right(y)
        return {"sum": both, "most": both.relu()}


@pytest.mark.parametrize("count", [1, 2, 5, 6, 11])
def test_pieces_give_what_the_whole_gives(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PIECE_BYTES", 2 * 4 * 64)
    model = Two().eval()
    isogrid.prune(model, isogrid.OneShot(sparsity=0.9))
    fast = isogrid.compile(
        model, (torch.randn(2, 64), torch.randn(2, 64)), choices={"left.weight": "sparse", "right.weight": "sparse"}
    )
    assert fast._samples is not None
    assert fast._samples.piece == 2
    calls: list[int] = []
    fast.body.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    x, y = torch.randn(count, 64), torch.randn(count, 64)
    with torch.no_grad():
        found, wanted = fast(x, y), model(x, y)
    assert max(calls) <= 2
    assert sum(calls) == count
    assert list(found) == ["sum", "most"]
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-5)


def test_a_graph_that_is_not_for_a_single_sample_is_not_cut_into_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PIECE_BYTES", 1)
    model = Two().eval()
    isogrid.prune(model, isogrid.OneShot(sparsity=0.9))
    fast = isogrid.compile(
        model, (torch.randn(2, 64), torch.randn(2, 64)), choices={"left.weight": "sparse", "right.weight": "sparse"}
    )
    assert isinstance(fast, Compiled)
    assert fast._inputs is not None
    assert fast._samples is not None
    fast._inputs.excluded = {(fast._samples.size, 1)}
    fast._inputs.forget()
    calls: list[int] = []
    fast.body.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    fast(torch.randn(4, 64), torch.randn(4, 64))
    assert calls == [4]
