"""Which parameters are targets, what a mask does, and how zeros are counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from isogrid.errors import TargetError, UnsupportedError, UsageError
from isogrid.masks import apply_masks, count_zeros, find_targets, masks_of_zeros, unwrap, zero_pruned_

COMPILES = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
"""torch.compile imports a part of torch that calls another, deprecated one."""


def names(model: nn.Module, *arguments: Any, **options: Any) -> list[str]:
    return [target.name for target in find_targets(model, *arguments, **options)]


def mixed() -> nn.Sequential:
    return nn.Sequential(
        nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 8, 1), nn.Conv1d(8, 8, 3, groups=8),
        nn.ConvTranspose1d(8, 4, 2),
    )  # fmt: skip


# -- targets -----------------------------------------------------------------------------------------------------------


def test_by_default_weights_of_layers_and_no_biases_norms_embeddings_or_depthwise() -> None:
    found = find_targets(mixed())
    assert [(t.name, t.kind) for t in found] == [
        ("1.weight", "linear"),
        ("3.weight", "conv"),
        ("5.weight", "conv_transpose"),
    ]


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (lambda: nn.Conv2d(2, 4, 3), ["conv"]),
        (lambda: nn.Conv3d(2, 4, 3), ["conv"]),
        (lambda: nn.ConvTranspose3d(2, 4, 3), ["conv_transpose"]),
        (lambda: nn.Conv2d(4, 4, 3, groups=2), ["conv"]),
        (lambda: nn.LSTMCell(3, 4), ["recurrent"] * 2),
        (lambda: nn.GRU(3, 4, num_layers=2), ["recurrent"] * 4),
        (lambda: nn.RNN(3, 4), ["recurrent"] * 2),
        (lambda: nn.MultiheadAttention(4, 2), ["attention", "linear"]),
        (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True), ["attention", "linear"]),
        (lambda: nn.MultiheadAttention(4, 2, kdim=3), ["attention"] * 3 + ["linear"]),
    ],
)
def test_kinds_of_layers(make: Callable[[], nn.Module], kinds: list[str]) -> None:
    found = find_targets(make())
    assert [target.kind for target in found] == kinds
    assert all(target.parameter.dim() >= 2 for target in found)


def test_naming_admits_what_is_left_out_by_default() -> None:
    assert names(mixed(), "0") == ["0.weight"]
    assert names(mixed(), ["4.weight", "1"]) == ["1.weight", "4.weight"]
    assert names(mixed(), embeddings=True) == ["0.weight", "1.weight", "3.weight", "5.weight"]

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(3, 3))
            self.inner = nn.Linear(3, 3)

    assert names(Own()) == ["inner.weight"]
    assert names(Own(), "table") == ["table"]


def test_entries_are_names_of_parameters_or_modules_or_whole_expressions() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "header": nn.Linear(2, 2), "body": nn.Sequential(nn.Linear(2, 2))})
    assert names(model, "head") == ["head.weight"]
    assert names(model, "body") == ["body.0.weight"]
    assert names(model, r"head.*\.weight") == ["head.weight", "header.weight"]
    assert names(model, ignore=["head", r"body\..*"]) == ["header.weight"]
    assert names(model, r".*", ignore="head") == ["header.weight", "body.0.weight"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"targets": "7"}, "targets entry '7' matches no weight of two axes or more"),
        ({"targets": "1.bias"}, "targets entry '1.bias' matches no weight .*biases and norms are never pruned"),
        ({"targets": "2"}, "targets entry '2' matches no weight"),
        ({"targets": ["1", "wieght"]}, "targets entry 'wieght'"),
        ({"ignore": "nothing"}, "ignore entry 'nothing' matches no weight"),
        ({"ignore": ".*"}, "No parameter of this Sequential can be pruned"),
    ],
)
def test_entries_that_match_nothing_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        find_targets(mixed(), **arguments)


def test_near_names_are_suggested() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    with pytest.raises(TargetError, match=r"names here are for example encoder\.weight"):
        find_targets(model, "encoder.wieght")


@pytest.mark.parametrize(
    ("entry", "said"),
    [("(", r"targets entry '\(' is no regular expression"), (3, "targets holds names"), (None, "names")],
)
def test_entries_that_are_no_text_are_refused(entry: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_targets(mixed(), [entry])


def test_a_model_with_nothing_to_prune_is_refused() -> None:
    with pytest.raises(TargetError, match="No parameter of this LayerNorm can be pruned"):
        find_targets(nn.LayerNorm(4))


def test_shared_weights_appear_once_under_their_first_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert names(model) == ["0.weight"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_weight_shared_with_an_embedding_is_an_embedding(order: tuple[int, int]) -> None:
    parts: list[nn.Module] = [nn.Embedding(4, 4), nn.Linear(4, 4, bias=False)]
    parts[1].weight = parts[0].weight
    model = nn.Sequential(*(parts[i] for i in order), nn.Linear(4, 2))
    assert names(model) == ["2.weight"]
    (first, _) = find_targets(model, embeddings=True)
    assert (first.name, first.kind) == ("0.weight", "embedding")


def test_the_canonical_view_has_the_output_first() -> None:
    (target,) = find_targets(nn.ConvTranspose2d(3, 5, 2, bias=False))
    assert tuple(target.parameter.shape) == (3, 5, 2, 2)
    assert target.shape == (5, 3, 2, 2)
    target.canonical(target.parameter.data)[0] = 7
    assert bool((target.parameter[:, 0] == 7).all())
    (plain,) = find_targets(nn.Conv2d(3, 5, 2))
    assert plain.shape == (5, 3, 2, 2)


def test_weights_that_cannot_be_pruned_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"0\.weight is not initialised yet; run one batch"):
        find_targets(nn.Sequential(nn.LazyLinear(2)))
    with pytest.raises(UnsupportedError, match=r"weight is torch\.complex64; only real weights can be pruned"):
        find_targets(nn.Linear(2, 2, dtype=torch.complex64))
    with pytest.raises(UnsupportedError, match="is sharded"):
        find_targets(sharded())


def sharded() -> nn.Module:
    class DTensor(torch.Tensor):
        """Named as the class of sharded tensors, whose making needs a process group."""

    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.ones(2, 2).as_subclass(DTensor))
    return layer


@COMPILES
def test_wrappers_are_taken_off() -> None:
    model = nn.Linear(2, 2)
    assert unwrap(model) is model
    assert unwrap(torch.compile(model)) is model
    assert unwrap(nn.DataParallel(model)) is model
    averaged = torch.optim.swa_utils.AveragedModel(model)
    assert unwrap(averaged) is averaged.module
    assert unwrap(nn.DataParallel(torch.compile(model))) is model
    assert names(torch.compile(nn.DataParallel(mixed())), "1") == ["1.weight"]


# -- masks -------------------------------------------------------------------------------------------------------------


@COMPILES
def test_masks_are_put_into_a_copy() -> None:
    model = mixed()
    before = model[1].weight.detach().clone()
    mask = torch.rand(4, 4) < 0.5
    apply_masks(torch.compile(model), {"1.weight": mask})
    assert torch.equal(model[1].weight.detach(), before * mask)


def test_masks_reach_a_shared_weight_by_any_of_its_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    apply_masks(model, {"1.weight": torch.zeros(2, 2, dtype=torch.bool)})
    assert not model[0].weight.any()


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"9.weight": torch.ones(4, 4) > 0}, "The mask of 9.weight has shape .4, 4., and the parameter is missing"),
        ({"1.weight": torch.ones(4, 3) > 0}, "and the parameter is of shape .4, 4."),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        apply_masks(mixed(), masks)


def test_masks_of_zeros_call_a_layer_of_nothing_but_zeros_active() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight.data[0] = 0
    model[0].weight.data[1, 1] = -0.0
    model[1].weight.data.zero_()
    masks = masks_of_zeros(find_targets(model))
    assert torch.equal(masks["0.weight"], model[0].weight != 0)
    assert int(masks["0.weight"].sum()) == 5
    assert bool(masks["1.weight"].all())


# -- counts ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, -0.0, 1e-45, 1.0, float("nan")]), min_size=12, max_size=12))
def test_counts_are_of_exact_zeros(values: list[float]) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].weight.data = torch.tensor(values).reshape(3, 4)
    model[0].bias.data = torch.tensor([0.0, 1.0, 2.0])
    zeros = sum(value == 0 for value in values)
    assert count_zeros(model) == {
        "sparsity": 1 - (12 - zeros) / 12,
        "sparsity_of_model": 1 - (14 - zeros) / 15,
        "nonzeros": 14 - zeros,
        "parameters": 15,
    }


def test_shared_parameters_count_once_and_targets_may_be_given() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False))
    model[1].weight = model[0].weight
    model[2].weight.data.zero_()
    counts = count_zeros(model)
    assert (counts["parameters"], counts["nonzeros"], counts["sparsity"]) == (20, 16, 1 - 16 / 20)
    assert count_zeros(model, find_targets(model, "2"))["sparsity"] == 1.0


FLOATING = [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex128]
SPECIAL = [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45, -2.5, 3.0]


@pytest.mark.parametrize("dtype", FLOATING)
def test_what_is_pruned_becomes_plus_zero_and_the_rest_keeps_its_bits(dtype: torch.dtype) -> None:
    tensor = torch.tensor(SPECIAL).to(dtype).repeat(2, 1)
    mask = torch.tensor([[True] * len(SPECIAL), [False] * len(SPECIAL)])
    wanted = tensor.clone()
    wanted[1] = torch.zeros(1, dtype=dtype)
    assert zero_pruned_(tensor, mask) is tensor
    assert torch.equal(tensor.view(torch.uint8), wanted.view(torch.uint8))


@given(
    st.integers(0, 2**31), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans(),
    st.sampled_from([torch.float16, torch.float32, torch.float64, torch.int64]),
)  # fmt: skip
def test_zeroing_what_is_pruned_is_filling_it(seed: int, shape: list[int], turned: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensor = (10 * torch.randn(shape, generator=generator)).to(dtype)
    mask = torch.rand(shape, generator=generator) < 0.5
    if turned:  # neither need be contiguous
        tensor, mask = tensor.movedim(0, -1), mask.movedim(0, -1)
    wanted = tensor.masked_fill(~mask, 0)
    assert torch.equal(zero_pruned_(tensor, mask), wanted)


def test_zeroing_tells_autograd_once() -> None:
    tensor = torch.ones(3)
    zero_pruned_(tensor, torch.tensor([True, False, True]))
    assert tensor._version == 1  # what was saved for a backward pass is known to be out of date
