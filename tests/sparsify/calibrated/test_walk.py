"""Layer by layer: each sees what the pruned layers before it pass on, and little is kept or computed for that."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isogrid.errors import UnsupportedError
from isogrid.sparsify import SparseGPT, Wanda, prune
from isogrid.sparsify.calibrated import walk
from isogrid.sparsify.calibrated.moments import Moments
from isogrid.sparsify.calibrated.walk import copied


class Attention(nn.Module):
    """As in BERT: three projections of the same input, and one of what comes of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weights = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5
        if mask is not None:
            weights = weights.masked_fill(~mask[:, None, :], -1e4)
        weights = weights.softmax(dim=-1)
        return self.out(weights @ self.value(x)), weights


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.5), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        attended, weights = self.attention(self.norms[0](x), mask)
        x = x + scale * attended
        return x + self.mlp(self.norms[1](x)), weights


class Encoder(nn.Module):
    """Blocks that are passed a mask and answer with a tuple."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.pooler = nn.Linear(8, 8)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x, _ = block(x, mask, scale=0.5)
        return self.pooler(x[:, 0]).tanh()


class Glued(Encoder):
    """Something is computed between the blocks, and an early output is used late."""

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = first = self.embedding(tokens)
        for block in self.blocks:
            x = block(x.tanh(), mask)[0] + first
            first = first if first is not x else x
        return self.pooler(x[:, 0])


class Writing(Encoder):
    """Blocks write to what they are given."""

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x.mul_(1.5), mask)[0].add_(1.0)
        return self.pooler(x[:, 0])


class Repeated(Encoder):
    """Two blocks take turns."""

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embedding(tokens)
        for i in range(6):
            x = self.blocks[i % 2](x, mask)[0]
        for block in self.blocks[2:]:
            x = block(x, mask)[0]
        return self.pooler(x[:, 0])


class Branching(Encoder):
    """Not every batch takes the same way."""

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embedding(tokens)
        for i, block in enumerate(self.blocks):
            if i != 1 or tokens.shape[0] > 2:
                x = block(x, mask)[0]
        return self.pooler(x[:, 0])


class Catching(Encoder):
    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        try:
            return super().forward(tokens, mask)
        except Exception as problem:
            raise AssertionError from problem


def convolutional() -> nn.Module:
    stages = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)) for _ in range(10)]
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), *stages, nn.Flatten(), nn.Linear(64, 4))


class Layers(nn.Module):
    """Layers in a row with functions between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(10))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x


def tokens() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    batches = []
    for size in (2, 3, 4):
        mask = torch.ones(size, 6, dtype=torch.bool)
        mask[-1, 4:] = False
        batches.append({"tokens": torch.randint(20, (size, 6), generator=generator), "mask": mask})
    return batches


def images() -> list[Tensor]:
    return [torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(n)) for n in (2, 3)]


def vectors() -> list[Tensor]:
    return [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (8, 9)]


MODELS: dict[str, tuple[Any, Any]] = {
    "blocks": (Encoder, tokens),
    "glue": (Glued, tokens),
    "writing": (Writing, tokens),
    "repeated": (Repeated, tokens),
    "branching": (Branching, tokens),
    "catching": (Catching, tokens),
    "convolutions": (convolutional, images),
    "layers": (Layers, vectors),
    "attention": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 4),
        lambda: [torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(n)) for n in (1, 2)],
    ),
}


def made(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model, data = MODELS[name]
    return model(), data()


def answers(model: nn.Module, data: Any) -> list[Tensor]:
    model.eval()
    with torch.no_grad():
        return [model(**batch) if isinstance(batch, dict) else model(batch) for batch in data]


@pytest.mark.parametrize("name", MODELS)
def test_in_pieces_or_as_a_whole_every_model_is_pruned_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for at_once in (0, 8, 10_000):
        monkeypatch.setattr(walk, "AT_ONCE", at_once)
        model, data = made(name)
        report = prune(model, SparseGPT(sparsity=0.5), data=data, batch_norm="keep")
        assert report.sparsity == pytest.approx(0.5, abs=1e-3)
        found.append(model.state_dict())
    for other in found[1:]:
        for key, value in found[0].items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_model_answers_as_before_where_nothing_is_pruned(name: str) -> None:
    model, data = made(name)
    wanted = answers(model, data)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    prune(model, SparseGPT(sparsity=0.0), data=data)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(p, q) for p, q in zip(answers(model, data), wanted, strict=True))


@pytest.mark.parametrize("at_once", [0, 8])
def test_each_layer_sees_what_the_pruned_layers_before_it_pass_on(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "AT_ONCE", at_once)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    x = torch.randn(30, 8)
    by_hand = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    by_hand.load_state_dict(model.state_dict())
    for i in (0, 2, 4):
        with torch.no_grad():
            seen = by_hand[:i](x)
        prune(by_hand[i], SparseGPT(sparsity=0.5), data=[seen])
    prune(model, SparseGPT(sparsity=0.5), data=[x])
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_projections_of_the_same_input_share_its_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = made("blocks")
    seen: Counter[str] = Counter()
    add = Moments.add

    def counting(self: Moments, call: Any) -> None:
        seen[call.layer.name] += 1
        add(self, call)

    monkeypatch.setattr(Moments, "add", counting)
    prune(model, SparseGPT(sparsity=0.5), data=data)
    assert set(seen.values()) == {3}  # batches
    assert [name for name in seen if name.startswith("blocks.0.")] == [
        "blocks.0.attention.query.weight", "blocks.0.attention.out.weight", "blocks.0.mlp.0.weight",
        "blocks.0.mlp.3.weight",
    ]  # fmt: skip


def runs_of(model: nn.Module, modules: list[nn.Module], data: Any) -> list[int]:
    counts = [0] * len(modules)
    handles = []
    for i, module in enumerate(modules):

        def count(*_: Any, i: int = i) -> None:
            counts[i] += 1

        handles.append(module.register_forward_pre_hook(count))
    prune(model, Wanda(sparsity=0.5), data=data)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("depth", [3, 12])
def test_a_block_runs_as_often_in_a_deep_model_as_in_a_shallow_one(depth: int) -> None:
    torch.manual_seed(0)
    model = Encoder(depth)
    counts = runs_of(model, list(model.blocks), tokens())
    # The trace, four groups of layers, once to pass on what it makes of pruned weights, once for the pooler; and the
    # first is also where the way from the input ends.
    assert max(counts[1:]) <= 3 * 7
    assert counts[0] <= 3 * 8


def test_only_the_inputs_of_one_block_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Encoder(12)
    made_by_blocks: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def note(_module: nn.Module, _args: Any, answer: tuple[Tensor, Tensor]) -> None:
        made_by_blocks.extend(map(weakref.ref, answer))

    for block in model.blocks:
        block.register_forward_hook(note)
    prepare = Wanda.prepare

    def counting(self: Wanda, moments: Tensor) -> Tensor:
        alive.append(sum(ref() is not None for ref in made_by_blocks))
        return prepare(self, moments)

    monkeypatch.setattr(Wanda, "prepare", counting)
    data = tokens()
    prune(model, Wanda(sparsity=0.5), data=data)
    assert len(made_by_blocks) > 100
    assert max(alive) <= len(data)


def test_a_cache_that_grows_with_every_run_is_off_meanwhile() -> None:
    class Config:
        use_cache = True

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.layer = Config(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            assert not self.config.use_cache
            return self.layer(x)

    model = Cached()
    prune(model, SparseGPT(sparsity=0.5), data=[torch.randn(3, 4)])
    assert model.config.use_cache


def test_compiled_parts_run_as_they_were_written() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.Sequential(torch.compile(inner, backend="eager"), nn.Linear(4, 2))
    assert prune(model, SparseGPT(sparsity=0.5), data=[torch.randn(9, 4)]).sparsity == 0.5


def test_everything_is_undone_when_the_model_fails_on_the_data() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        prune(model, SparseGPT(sparsity=0.5), data=[torch.randn(3, 4), torch.randn(3, 5)])
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert bool((model[0].weight != 0).all())


def test_a_loader_that_shuffles_is_passed_through_once() -> None:
    passes = []

    class Loader:
        def __iter__(self) -> Any:
            passes.append(1)
            yield torch.randn(9, 4)

    prune(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), SparseGPT(sparsity=0.5), data=Loader())
    assert len(passes) == 1


def test_slices_that_do_not_cut_a_weight_evenly_are_refused() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            head = nn.functional.linear(x, self.layer.weight[:2])
            return torch.cat([head, nn.functional.linear(2 * x, self.layer.weight[2:])], dim=1)

    with pytest.raises(
        UnsupportedError, match=r"layer\.weight is applied in slices of its rows \[\(0, 2\), \(2, 4\)\]"
    ):
        prune(Uneven(), SparseGPT(sparsity=0.5), data=[torch.randn(5, 4)])


def test_copies_share_what_was_shared() -> None:
    x = torch.ones(2)
    (a, b), c = copied(((x, x), {"y": x, "n": 3}))
    assert a is b is c["y"]
    assert a is not x
    assert c["n"] == 3
