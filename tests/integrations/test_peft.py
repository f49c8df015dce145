"""Low-rank adapters of PEFT on a sparse model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from integrations.tiny import TARGETS, Sentences, tiny_bert
from isogrid.errors import TargetError, UnsupportedError, UsageError
from isogrid.integrations.peft import keep_zeros
from isogrid.sparsify import KeepZeros, OneShot, Sparsifier, prune

ADAPTED = ["query", "value", "dense"]


def sparse_bert() -> nn.Module:
    model = tiny_bert(dropout=0.0)
    prune(model, OneShot(sparsity=0.6), targets=TARGETS)
    return model


def zeros_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p == 0 for name, p in model.named_parameters() if p.dim() > 1 and "encoder" in name}


def adapted(base: nn.Module, **options: Any) -> PeftModel:
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ADAPTED, **options}
    model: PeftModel = get_peft_model(base, LoraConfig(**settings))
    return model


def train(model: nn.Module, steps: int = 10) -> list[float]:
    data = Sentences(32)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=data.words, labels=data.labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def answers(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=Sentences(32, seed=2).words).logits
    return logits


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_bias": True}, {"lora_dropout": 0.2}], ids=str)
@pytest.mark.parametrize("safe", [False, True])
def test_merging_keeps_every_zero_and_every_answer(options: dict[str, Any], safe: bool) -> None:
    base = sparse_bert()
    zeros = zeros_of(base)
    model = adapted(base, **options)
    masks = keep_zeros(model)
    assert len(masks) == 5  # query, value, and three dense layers of the encoder; the pooler is dense
    losses = train(model)
    assert losses[-1] < losses[0]
    answered = answers(model)
    merged = model.merge_and_unload(safe_merge=safe)
    torch.testing.assert_close(answers(merged), answered, rtol=1e-4, atol=1e-5)
    after = zeros_of(merged)
    assert after.keys() == zeros.keys()
    for name, zero in zeros.items():
        assert torch.equal(after[name], zero), name


def test_without_it_merging_loses_the_zeros() -> None:
    base = sparse_bert()
    zeros = zeros_of(base)
    model = adapted(base)
    train(model, steps=2)
    after = zeros_of(model.merge_and_unload())
    assert any(not torch.equal(after[name], zero) for name, zero in zeros.items())


def test_the_start_is_the_base_and_only_adapters_train() -> None:
    base = sparse_bert()
    wanted = answers(copy.deepcopy(base))
    model = adapted(base)
    keep_zeros(model)
    assert torch.equal(answers(model), wanted)
    model.train()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    train(model, steps=2)
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    for name, value in frozen.items():
        assert torch.equal(model.get_parameter(name), value), name


def test_merging_can_be_undone() -> None:
    model = adapted(sparse_bert())
    keep_zeros(model)
    train(model, steps=3)
    answered, zeros = answers(model), zeros_of(model)
    model.merge_adapter()
    torch.testing.assert_close(answers(model), answered, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(answers(model), answered, rtol=1e-4, atol=1e-5)
    for name, zero in zeros_of(model).items():
        if "base_layer" in name:
            assert torch.equal(zero, zeros[name]), name
    with model.disable_adapter():
        assert not torch.equal(answers(model), answered)


def test_an_adapters_file_is_an_ordinary_one(tmp_path: Path) -> None:
    model = adapted(sparse_bert())
    keep_zeros(model)
    assert not any("isogrid" in name for name in model.state_dict())
    train(model, steps=3)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(sparse_bert(), tmp_path)
    keep_zeros(again)
    assert torch.equal(answers(again), answers(model))


def test_a_copy_is_masked_too() -> None:
    model = adapted(sparse_bert())
    keep_zeros(model)
    train(model, steps=3)
    assert torch.equal(answers(copy.deepcopy(model)), answers(model))


def test_adapters_that_come_later_need_it_again() -> None:
    model = adapted(sparse_bert())
    first = keep_zeros(model)
    model.add_adapter("other", LoraConfig(r=2, target_modules=ADAPTED, init_lora_weights=False))
    again = keep_zeros(model)
    assert all(torch.equal(first[name], mask) for name, mask in again.items())
    model.base_model.set_adapter(["default", "other"])
    zeros = zeros_of(sparse_bert())
    answered = answers(model)
    merged = model.merge_and_unload(adapter_names=["default", "other"])
    torch.testing.assert_close(answers(merged), answered, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(zero, zeros[name]) for name, zero in zeros_of(merged).items())


def test_samples_may_have_different_adapters() -> None:
    model = adapted(sparse_bert(), init_lora_weights=False)
    model.add_adapter("other", LoraConfig(r=2, target_modules=ADAPTED, init_lora_weights=False))
    keep_zeros(model)
    words = Sentences(4, seed=2).words
    model.eval()
    with torch.no_grad():
        mixed = model(input_ids=words, adapter_names=["default", "other", "default", "other"]).logits
        for index, name in ((0, "default"), (1, "other")):
            model.set_adapter(name)
            alone = model(input_ids=words).logits
            torch.testing.assert_close(mixed[index::2], alone[index::2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Linear(6, 5, bias=False), (3, 6)),
        (Conv1D(5, 6), (3, 6)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 9)),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 9, 9)),
        (nn.Conv1d(4, 6, 3, dilation=2), (2, 4, 9)),
        (nn.Conv2d(4, 6, 1), (2, 4, 5, 5)),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_every_kind_of_layer(layer: nn.Module, size: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = copy.deepcopy(layer).to(dtype)
    weight = layer.get_parameter("weight")
    # The layers are made before any test has seeded the generator, and in bfloat16 a sum may be zero by chance.
    nn.init.normal_(weight)
    weight.data.masked_fill_(torch.rand(weight.shape) < 0.6, 0)
    zeros = weight == 0
    conv1d = isinstance(layer, Conv1D)
    model = adapted(nn.Sequential(layer), target_modules=["0"], init_lora_weights=False, fan_in_fan_out=conv1d)
    model = model.to(dtype)
    keep_zeros(model)
    x = torch.randn(size, dtype=dtype)
    answered = model(x)
    merged = model.merge_and_unload()
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(merged(x), answered, rtol=tolerance, atol=tolerance)
    assert torch.equal(merged[0].weight == 0, zeros)


def test_masks_may_be_given_where_the_start_changes_the_base() -> None:
    base = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    report = prune(base, OneShot(sparsity=0.5))
    model = adapted(base, target_modules=["0", "2"], init_lora_weights="pissa")
    masks = {f"base_model.model.{n[0]}.base_layer.weight": mask for n, mask in report.masks.items()}
    assert keep_zeros(model, masks).keys() == masks.keys()
    merged = model.merge_and_unload()
    for name, mask in report.masks.items():
        assert torch.equal(merged.get_parameter(name) != 0, mask)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora"])
def test_without_masks_a_start_that_changes_the_base_is_refused(start: Any) -> None:
    base = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    report = prune(base, OneShot(sparsity=0.5))
    model = adapted(base, target_modules=["0", "2"], init_lora_weights=start)
    with pytest.raises(
        UsageError, match=rf"Adapter 'default' of .* has init_lora_weights='{start}', .*accepted are masks="
    ):
        keep_zeros(model)
    masks = {f"base_model.model.{n[0]}.base_layer.weight": mask for n, mask in report.masks.items()}
    keep_zeros(model, masks)
    again = keep_zeros(model)  # what is held already needs no masks
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())


def test_a_start_that_leaves_the_base_alone_needs_no_masks() -> None:
    for start in ("gaussian", "orthogonal"):
        assert len(keep_zeros(adapted(sparse_bert(), init_lora_weights=start))) == 5


@pytest.mark.parametrize("padding", [0, -1])
def test_a_row_for_padding_is_not_pruned(padding: int) -> None:
    base = nn.Sequential(nn.Embedding(8, 8, padding_idx=padding), nn.Linear(8, 8))
    prune(base, OneShot(sparsity=0.5))
    assert not base[0].weight[padding].any()
    model = adapted(base, target_modules=["0", "1"])
    assert list(keep_zeros(model)) == ["base_model.model.1.base_layer.weight"]
    merged = model.merge_and_unload()
    assert int((merged[1].weight == 0).sum()) == 32


def test_what_peft_trains_as_a_whole_is_held_by_a_sparsifier() -> None:
    base = tiny_bert(dropout=0.0)
    prune(base, OneShot(sparsity=0.6))
    model = adapted(base, modules_to_save=["classifier"])
    keep_zeros(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    whole = r".*classifier\.modules_to_save\..*"
    sparsifier = Sparsifier(model, KeepZeros(), optimizer=optimizer, total_steps=3, targets=whole)
    for _ in range(3):
        data = Sentences(32)
        model(input_ids=data.words, labels=data.labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    sparsifier.finalize()
    zeros = {name: p == 0 for name, p in tiny_like(base).items()}
    merged = model.merge_and_unload()
    for name, zero in zeros.items():
        assert torch.equal(merged.get_parameter(name) == 0, zero), name


def tiny_like(_: nn.Module) -> dict[str, nn.Parameter]:
    base = tiny_bert(dropout=0.0)
    report = prune(base, OneShot(sparsity=0.6))
    return {name: base.get_parameter(name) for name in report.masks}


# -- what is refused -------------------------------------------------------------------------------------------------


def test_a_dense_base_is_refused() -> None:
    with pytest.raises(UsageError, match=r"keep_zeros\(\) found no zeros in the weights that the 6 LoRA layers adapt"):
        keep_zeros(adapted(tiny_bert()))
    with pytest.raises(UsageError, match=r"that the 0 LoRA layers adapt"):
        keep_zeros(tiny_bert())


def test_dora_is_refused() -> None:
    model = adapted(sparse_bert(), use_dora=True)
    with pytest.raises(UnsupportedError, match=r"Adapter 'default' of .* is a DoraLinearVariant, .* plain LoRA"):
        keep_zeros(model)


def test_an_embedding_is_refused() -> None:
    base = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8))
    prune(base, OneShot(sparsity=0.5), embeddings=True)
    model = adapted(base, target_modules=["0", "1"])
    with pytest.raises(
        UnsupportedError, match=r"0.base_layer.weight is adapted by a .*Embedding, .* or masks= that leave"
    ):
        keep_zeros(model)
    name = "base_model.model.1.base_layer.weight"
    assert list(keep_zeros(model, {name: base[1].base_layer.weight != 0})) == [name]


def test_a_merged_adapter_is_refused() -> None:
    model = adapted(sparse_bert())
    model.merge_adapter()
    with pytest.raises(UsageError, match=r"are merged; unmerge_adapter\(\) before keep_zeros\(\)"):
        keep_zeros(model)


def test_masks_that_do_not_fit_are_refused() -> None:
    model = adapted(sparse_bert())
    (name, mask), *_ = keep_zeros(model).items()
    with pytest.raises(TargetError, match=r"The masks name nobody, which no LoRA layer adapts"):
        keep_zeros(model, {"nobody": mask})
    with pytest.raises(TargetError, match=r"is torch.bool of shape \(1,\), and the weight is of shape"):
        keep_zeros(model, {name: torch.ones(1, dtype=torch.bool)})
