"""ShrunkAttention: PyTorch's own attention, for heads that do not fill the width."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import isogrid as ig
from isogrid.errors import UsageError
from isogrid.structure import ShrunkAttention


def twins(**options: object) -> tuple[nn.MultiheadAttention, ShrunkAttention]:
    original = nn.MultiheadAttention(12, 3, **options).eval()  # type: ignore[arg-type]
    for parameter in original.parameters():
        nn.init.normal_(parameter, std=0.5)
    adopted = copy.deepcopy(original)
    ShrunkAttention.adopt(adopted)
    assert isinstance(adopted, ShrunkAttention)
    return original, adopted


def mask_of(kind: str, heads: int = 3) -> Tensor | None:
    later = torch.ones(4, 5, dtype=torch.bool).triu(1)
    if kind == "bool":
        return later
    if kind == "float":
        return torch.zeros(4, 5).masked_fill(later, float("-inf"))
    return torch.randn(2 * heads, 4, 5) if kind == "heads" else None


@pytest.mark.parametrize("kind", ["none", "bool", "float", "heads"])
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True, "bias": False},
        {"kdim": 7, "vdim": 9},
        {"add_bias_kv": True, "add_zero_attn": True},
    ],
    ids=str,
)
def test_before_anything_is_cut_it_answers_as_the_original(
    options: dict[str, object], need_weights: bool, padding: bool, kind: str
) -> None:
    original, adopted = twins(**options)
    query, key, value = torch.randn(4, 2, 12), torch.randn(5, 2, 12), torch.randn(5, 2, 12)
    if "kdim" in options:
        key, value = torch.randn(5, 2, 7), torch.randn(5, 2, 9)
    if "batch_first" in options:
        query, key, value = (part.transpose(0, 1) for part in (query, key, value))
    padded = torch.tensor([[False] * 5, [False, False, False, True, True]])
    arguments = {
        "key_padding_mask": (torch.zeros(2, 5).masked_fill(padded, -1e9) if kind == "float" else padded)
        if padding
        else None,
        "need_weights": need_weights,
        "attn_mask": mask_of(kind).float() if kind == "heads" and padding else mask_of(kind),
    }
    if kind == "heads" and padding:
        arguments["key_padding_mask"] = torch.zeros(2, 5).masked_fill(padded, float("-inf"))
    answer, weights = adopted(query, key, value, **arguments)
    wanted, wanted_weights = original(query, key, value, **arguments)
    torch.testing.assert_close(answer, wanted)
    assert (weights is None) == (wanted_weights is None)
    if weights is not None:
        torch.testing.assert_close(weights, wanted_weights)
        each = adopted(query, key, value, **arguments, average_attn_weights=False)[1]
        torch.testing.assert_close(each, original(query, key, value, **arguments, average_attn_weights=False)[1])


def test_one_sequence_without_a_batch() -> None:
    original, adopted = twins()
    x = torch.randn(5, 12)
    padded = torch.tensor([False, False, False, False, True])
    for mine, theirs in zip(
        adopted(x, x, x, key_padding_mask=padded), original(x, x, x, key_padding_mask=padded), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_hint_of_a_causal_mask_comes_with_its_mask() -> None:
    _, adopted = twins()
    x = torch.randn(4, 2, 12)
    with pytest.raises(UsageError, match="is_causal without attn_mask"):
        adopted(x, x, x, is_causal=True, need_weights=False)


def test_dropout_acts_in_training_only() -> None:
    original, adopted = twins(dropout=0.5)
    x = torch.randn(4, 2, 12)
    torch.testing.assert_close(adopted(x, x, x)[0], original(x, x, x)[0])
    adopted.train()
    first, second = (adopted(x, x, x, need_weights=needed)[0] for needed in (True, False))
    assert not torch.allclose(first, original(x, x, x)[0])
    assert not torch.allclose(second, original(x, x, x)[0])


class Attending(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(12, 3, **options)  # type: ignore[arg-type]
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(self.inner(x, y, y)[0])


@pytest.mark.parametrize("options", [{}, {"kdim": 7, "vdim": 7}, {"add_bias_kv": True}, {"batch_first": True}], ids=str)
def test_heads_are_cut_from_every_form_of_the_original(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = Attending(**options)
    x, y = torch.randn(4, 2, 12), torch.randn(4, 2, 7 if "kdim" in options else 12)
    shrunk = ig.shrink(model, (x, y), sparsity=0, heads=0.5)
    (heads,) = (found for found in shrunk.report.groups if found.kind == "heads")
    (gone,) = heads.removed
    assert shrunk.model.inner.num_heads == 2
    model.inner.out_proj.weight.data[:, 4 * gone : 4 * gone + 4] = 0
    torch.testing.assert_close(shrunk.model.eval()(x, y), model.eval()(x, y))


def test_a_shrunk_attention_can_be_shrunk_again() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2, 12)
    once = ig.shrink(Attending(), (x, x), sparsity=0, heads=0.4).model
    twice = ig.shrink(once, (x, x), sparsity=0, heads=0.5).model
    assert (once.inner.num_heads, twice.inner.num_heads) == (2, 1)
