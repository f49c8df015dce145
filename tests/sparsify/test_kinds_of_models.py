"""Layers that real models have: shared weights, attention, recurrence, convolutions, embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance.training import OPTIMIZERS, assert_effective
from isogrid.masks import count_zeros
from isogrid.sparsify import Gradual, OneShot, Sparsifier, Static, Trigger, Usage, methods, parse_method, prune


class Attending(nn.Module):
    """Attention over a short sequence, with one bare input projection or three."""

    def __init__(self, key: int | None = None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=key, vdim=key, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.key = key or 8

    def forward(self, x: Tensor) -> Tensor:
        other = x[..., : self.key]
        attended, _ = self.attention(x, other, other)
        return self.head(attended.mean(dim=1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """A recurrent net that is read at its last step."""

    def __init__(self, net: nn.RNNBase) -> None:
        super().__init__()
        self.net = net
        self.head = nn.Linear(net.proj_size or net.hidden_size * (2 if net.bidirectional else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[0][:, -1])  # type: ignore[no-any-return]


class Tied(nn.Module):
    """A language model in small whose output matrix is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 8)
        self.inner = nn.Linear(8, 8)
        self.output = nn.Linear(8, 8, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        words = self.embedding(x.sum(dim=2).abs().long() % 8)
        return self.output(self.inner(words).mean(dim=1))  # type: ignore[no-any-return]


class Twice(nn.Module):
    """Two layers that share one weight, neither of them an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).tanh()).mean(dim=1)  # type: ignore[no-any-return]


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4),
        nn.ConvTranspose2d(4, 6, 2, stride=2), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "attention": (Attending, ["attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]),
    "attention_apart": (
        lambda: Attending(key=6),
        [
            *(f"attention.{name}_proj_weight" for name in "qkv"),
            "attention.out_proj.weight",
            "head.weight",
        ],
    ),
    "lstm": (
        lambda: Recurrent(nn.LSTM(8, 6, num_layers=2, batch_first=True)),
        ["net.weight_ih_l0", "net.weight_hh_l0", "net.weight_ih_l1", "net.weight_hh_l1", "head.weight"],
    ),
    "lstm_projected": (
        lambda: Recurrent(nn.LSTM(8, 6, proj_size=4, batch_first=True)),
        ["net.weight_ih_l0", "net.weight_hh_l0", "net.weight_hr_l0", "head.weight"],
    ),
    "gru": (
        lambda: Recurrent(nn.GRU(8, 6, batch_first=True, bidirectional=True)),
        [
            "net.weight_ih_l0",
            "net.weight_hh_l0",
            "net.weight_ih_l0_reverse",
            "net.weight_hh_l0_reverse",
            "head.weight",
        ],
    ),
    "tied": (Tied, ["inner.weight"]),
    "twice": (Twice, ["one.weight"]),
    "convolutions": (convolutions, ["1.weight", "4.weight", "8.weight"]),
    "encoder": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), nn.Flatten(), nn.Linear(48, 3)
        ),
        [
            "0.self_attn.in_proj_weight",
            "0.self_attn.out_proj.weight",
            "0.linear1.weight",
            "0.linear2.weight",
            "2.weight",
        ],
    ),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", [Gradual(sparsity=0.75, delta_t=2), Trigger(sparsity=0.75, delta_t=2)])
def test_it_trains_sparse_and_keeps_its_names(name: str, method: Any) -> None:
    build, wanted = MODELS[name]
    torch.manual_seed(0)
    model = build()
    names = list(model.state_dict())
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    sparsifier = Sparsifier(model, method, optimizer=optimizer, total_steps=12)
    assert sparsifier.targets == wanted
    for step in range(12):
        x = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(step))
        loss = model(x).square().mean() + sparsifier.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert_effective(_Held(sparsifier))  # type: ignore[arg-type]
    counts = sparsifier.finalize()
    assert counts["sparsity"] == pytest.approx(0.75, abs=0.01)
    assert counts == count_zeros(model, [layer.target for layer in sparsifier.state.layers])
    assert list(model.state_dict()) == names
    model.eval()
    with torch.no_grad():
        first = model(torch.ones(2, 6, 8))
    fresh = build().eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(torch.ones(2, 6, 8)), first)


class _Held:
    def __init__(self, sparsifier: Sparsifier) -> None:
        self.sparsifier, self.state = sparsifier, sparsifier.state


def test_a_shared_weight_is_masked_once_and_counted_once() -> None:
    model = Tied()
    optimizer = OPTIMIZERS["sgd_momentum"](model.parameters())
    sparsifier = Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=3, embeddings=True)
    assert sparsifier.targets == ["embedding.weight", "inner.weight"]
    for step in range(3):
        model(torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    counts = sparsifier.finalize()
    assert counts["parameters"] == 64 + 72
    assert torch.equal(model.output.weight, model.embedding.weight)
    assert counts["sparsity"] == 0.5


def test_attention_in_eval_uses_the_zeros() -> None:
    torch.manual_seed(0)
    model = Attending()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = Sparsifier(model, Static(sparsity=0.9, allocation="uniform"), optimizer=optimizer, total_steps=1)
    x = torch.randn(2, 6, 8)
    wanted = model(x)
    with torch.no_grad():
        assert torch.allclose(model.eval()(x), wanted, atol=1e-6)
    assert sparsifier.sparsity >= 0.9


@pytest.mark.parametrize("pattern", ["1:2", "block:2x2", "row", "channel", "fan_in"])
def test_patterns_hold_in_the_canonical_view_of_every_kind_of_layer(pattern: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 2, 2), nn.Flatten(), nn.Linear(50, 4))
    optimizer = OPTIMIZERS["adam"](model.parameters())
    method = Gradual(sparsity=0.5, pattern=pattern, allocation="uniform", delta_t=1)
    sparsifier = Sparsifier(model, method, optimizer=optimizer, total_steps=8)
    for step in range(8):
        x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for layer in sparsifier.state.layers:
        assert method.target_pattern.conforms(layer.to_array(layer.mask)), layer.name
        assert layer.active == layer.size // 2
    sparsifier.finalize()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize("name", sorted(n for n, one in methods().items() if one.cls.usage is not Usage.AFTER))
def test_a_layer_without_weights_is_no_hindrance(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 0), nn.Linear(0, 3))
    if name == "keep":
        method = parse_method(name)
        prune(model, OneShot(sparsity=0.5))
    else:
        method = parse_method(name, sparsity=0.5)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    data = [(torch.randn(4, 8), torch.arange(4) % 3)]
    sparsifier = Sparsifier(model, method, optimizer=optimizer, total_steps=8, data=data, targets=r"\d\.weight")
    for step in range(8):
        x = torch.randn(3, 8, generator=torch.Generator().manual_seed(step))
        loss = model(x).square().mean() + model[0](x).square().mean() + sparsifier.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(math.isfinite(value) for value in sparsifier.telemetry().values())
    assert sparsifier.finalize()["sparsity"] >= 0.5
