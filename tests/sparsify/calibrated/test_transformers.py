"""Hugging Face models, tiny and never trained, where the library is installed."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from isogrid.sparsify import ALPS, Method, SparseGPT, Wanda, prune
from isogrid.sparsify.calibrated import walk


@pytest.fixture
def transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers")


def bert(transformers: Any, layers: int = 4) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    model: nn.Module = transformers.BertModel(config)
    return model


def sentences() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for length in (5, 7):
        mask = torch.ones(6, length, dtype=torch.int64)
        mask[-2:, 3:] = 0
        batches.append({"input_ids": torch.randint(30, (6, length), generator=generator), "attention_mask": mask})
    return batches


@pytest.mark.parametrize("method", [Wanda(sparsity=0.5), SparseGPT(pattern="2:4"), ALPS(sparsity=0.5)])
def test_bert_is_pruned_block_by_block(transformers: Any, method: Method) -> None:
    model = bert(transformers)
    runs = [0] * 4
    for i, layer in enumerate(model.encoder.layer):  # type: ignore[union-attr,arg-type]

        def count(*_: Any, i: int = i) -> None:
            runs[i] += 1

        layer.register_forward_pre_hook(count)
    report = prune(model, method, data=sentences())
    assert report.sparsity == 0.5
    assert len(report.layers) == 4 * 6 + 1
    assert max(runs) <= 2 * 8
    with torch.no_grad():
        assert bool(torch.isfinite(model.eval()(**sentences()[0]).last_hidden_state).all())


def test_bert_in_pieces_is_bert_as_a_whole(transformers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    for at_once in (8, 10_000):
        monkeypatch.setattr(walk, "AT_ONCE", at_once)
        models.append(bert(transformers, 3))
        prune(models[-1], SparseGPT(sparsity=0.5), data=sentences())
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_decoder_is_pruned_without_its_cache(transformers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    models = []
    for at_once in (8, 10_000):
        monkeypatch.setattr(walk, "AT_ONCE", at_once)
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
        report = prune(model, SparseGPT(sparsity=0.5), data=sentences(), ignore="lm_head")
        assert model.config.use_cache
        assert report.sparsity == 0.5
        models.append(model)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
