"""Models of Hugging Face: heads, hidden units and features go, and the code still runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isogrid as ig

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 30}


def example() -> dict[str, Tensor]:
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, 4:] = 0
    return {"input_ids": torch.arange(12).reshape(2, 6), "attention_mask": mask}


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    makers: dict[str, Any] = {
        "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)),
        "eager": lambda: transformers.BertForSequenceClassification(
            transformers.BertConfig(**SMALL, attn_implementation="eager")
        ),
        "distilbert": lambda: transformers.DistilBertForSequenceClassification(
            transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=4, hidden_dim=24, vocab_size=30)
        ),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=16,
                n_layer=2,
                n_head=4,
                n_inner=24,
                vocab_size=30,
                n_positions=8,
                use_cache=False,
                bos_token_id=1,
                eos_token_id=2,
            )
        ),
        "llama": lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(num_key_value_heads=2, use_cache=False, **SMALL)
        ),
    }
    model = makers[kind]().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(10)  # fresh ones are so small that attention hardly matters
    return model


@pytest.mark.parametrize("kind", ["bert", "eager", "distilbert", "gpt2", "llama"])
def test_everything_but_the_vocabulary_shrinks(kind: str) -> None:
    model = build(kind)
    shrunk = ig.shrink(model, example(), sparsity=0.5)
    assert shrunk.report.error < 1e-5
    kinds = [found.kind for found in shrunk.report.groups]
    assert kinds.count("heads") == 2
    assert kinds.count("units") >= 3
    assert all(found.after == found.before // 2 for found in shrunk.report.groups)
    assert all("fails" not in kept.reason and "wrong" not in kept.reason for kept in shrunk.report.kept)
    assert shrunk.model(**example()).logits.shape == model(**example()).logits.shape


def test_a_head_that_goes_is_the_head_that_the_original_no_longer_reads() -> None:
    model = build("bert")
    shrunk = ig.shrink(model, example(), sparsity={r".*intermediate\.dense": 0.5}, heads=0.5)
    for found in shrunk.report.groups:
        for name, axis in found.parameters:
            if axis == 1 and found.removed:
                weight = model.get_parameter(name).data
                each = weight.shape[1] // found.before
                for unit in found.removed:
                    weight[:, unit * each : (unit + 1) * each] = 0
    with torch.no_grad():
        torch.testing.assert_close(shrunk.model(**example()).logits, model(**example()).logits)
    own = shrunk.model.bert.encoder.layer[0].attention.self
    assert own.query.out_features == 8


def test_a_loss_of_its_own_ranks_units() -> None:
    model = build("bert")
    data = [{**example(), "labels": torch.tensor([0, 1])}]
    shrunk = ig.shrink(model, example(), sparsity=0.5, score="taylor", data=data)
    assert shrunk.report.parameters_after < shrunk.report.parameters_before
