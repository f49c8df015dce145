"""A model and data small enough for a hundred trainings, and every registered method on them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification

from isogrid.sparsify import KeepZeros, Method, OneShot, Usage, methods, parse_method, prune

COLLAPSE = "ignore:.*left nothing of:UserWarning"
"""What some methods say of models this small, at this sparsity: it is not what is tried here."""
TARGETS = r"bert\.encoder\..*"
"""Without the pooler and the classifier."""


def tiny_bert(seed: int = 0, dropout: float = 0.1) -> BertForSequenceClassification:
    """One encoder layer of width 16, 2560 weights in its six targets, in training mode."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=8, num_labels=2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertForSequenceClassification(config).train()


class Sentences(Dataset[dict[str, Tensor]]):
    """Sentences of six words; the label says whether word 3 is in them."""

    def __init__(self, count: int = 64, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.words = torch.randint(0, 8, (count, 6), generator=generator)
        self.labels = (self.words == 3).any(dim=1).long()

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": self.labels[index]}


def batches(count: int = 4) -> list[dict[str, Tensor]]:
    """Batches for methods that look at data before training."""
    data = Sentences(8 * count, seed=5)
    return [
        {"input_ids": data.words[8 * i : 8 * i + 8], "labels": data.labels[8 * i : 8 * i + 8]} for i in range(count)
    ]


def training_methods(sparsity: float = 0.6) -> dict[str, Method]:
    """Every registered method that belongs into training, aimed at that sparsity where it can be aimed."""
    found = {}
    for name, entry in methods().items():
        if entry.cls.usage is Usage.AFTER:
            continue
        fields = {field.name for field in dataclasses.fields(entry.cls)}
        options: dict[str, Any] = {"sparsity": sparsity} if "sparsity" in fields else {}
        if "delta_t" in fields:
            options["delta_t"] = 2
        if name == "synflow":
            options["rounds"] = 3  # instead of a hundred
        found[name] = parse_method(name, **options)
    return found


def model_for(method: Method, seed: int = 0) -> BertForSequenceClassification:
    """A tiny model, pruned already where the method keeps what zeros there are."""
    model = tiny_bert(seed)
    if isinstance(method, KeepZeros):
        prune(model, OneShot(sparsity=0.6), targets=TARGETS)
    return model


def options_for(method: Method) -> dict[str, Any]:
    """What a sparsifier needs beside the method."""
    return {"targets": TARGETS, **({"data": batches()} if method.needs_data else {})}


def bits(model: nn.Module, sparsifier: Any) -> dict[str, Tensor]:
    """All numbers that a resumed training must share with an undisturbed one."""
    saved = sparsifier.state_dict()
    numbers = {
        f"number/{name}": torch.tensor(float(value), dtype=torch.float64) for name, value in saved["numbers"].items()
    }
    masks = {f"mask/{name}": mask for name, mask in saved["masks"].items()}
    buffers = {
        f"buffer/{layer}/{name}": value for layer, held in saved["buffers"].items() for name, value in held.items()
    }
    return {**{name: value.clone() for name, value in model.state_dict().items()}, **numbers, **masks, **buffers}
