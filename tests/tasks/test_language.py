"""Classifying texts of different lengths: batches, masks, the task end to end."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import isogrid as ig
from conformance.chain import check_looking
from isogrid.errors import MissingDependencyError
from isogrid.masks import find_targets
from isogrid.runtime import Session
from isogrid.tasks import load_task
from isogrid.tasks.debian_packages import VARIABLE, corpus
from isogrid.tasks.language import Language, TextClassifier, masked_mean
from isogrid.tasks.language_batches import PADDING, LengthBatches, TokenTexts
from tasks.debian_list import write


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Language:
    monkeypatch.setenv(VARIABLE, str(write(tmp_path)))
    found = load_task("language").at("smoke")
    assert isinstance(found, Language)
    return found


def _uneven(count: int) -> tuple[TokenTexts, torch.Tensor]:
    """Text i is the number i + 1, so many times over: lengths from 1 to 40."""
    lengths = np.random.default_rng(0).integers(1, 41, count)
    return TokenTexts([[i + 1] * int(length) for i, length in enumerate(lengths)]), torch.arange(count)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1500])
def test_every_text_comes_once_a_pass_with_its_label(count: int) -> None:
    texts, labels = _uneven(count)
    batches = LengthBatches(texts, labels, batch_size=32)
    for _ in range(2):
        passed = list(batches)
        assert len(passed) == len(batches)
        assert sorted(torch.cat([own for _, own in passed]).tolist()) == list(range(count))
        for tokens, own in passed:
            assert torch.equal(tokens[:, 0], own + 1)
            assert torch.equal((tokens != PADDING).sum(dim=1), texts.lengths[own])
            assert bool((tokens != PADDING).any(dim=0).all())


def test_little_of_a_batch_is_padding() -> None:
    texts, labels = _uneven(1500)
    assert _padding([batch for batch, _ in LengthBatches(texts, labels, batch_size=32)]) < 0.05
    assert _padding([texts.batch(chosen) for chosen in torch.randperm(1500).split(32)]) > 0.3


def _padding(batches: list[torch.Tensor]) -> float:
    return sum(int((batch == PADDING).sum()) for batch in batches) / sum(batch.numel() for batch in batches)


def test_passes_are_drawn_by_torchs_generator() -> None:
    batches = LengthBatches(*_uneven(300), batch_size=32)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(torch.cat([labels for _, labels in batches]).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_mean_is_of_the_tokens_only() -> None:
    x = torch.randn(2, 4, 3)
    real = torch.tensor([[True, True, False, False], [True, True, True, True]])
    expected = torch.stack([x[0, :2].mean(dim=0), x[1].mean(dim=0)])
    torch.testing.assert_close(masked_mean(x, real), expected)


def test_padding_changes_no_answer() -> None:
    torch.manual_seed(0)
    model = TextClassifier(pieces=50, classes=5, width=16, layers=2, heads=4).eval()
    with torch.no_grad():
        model.pieces.weight[PADDING] = 7.0  # whatever it were, it must not be seen
        tokens = torch.randint(1, 50, (3, 9))
        alone = model(tokens)
        longer = torch.cat([tokens, torch.full((3, 6), PADDING)], dim=1)
        torch.testing.assert_close(model(longer), alone, atol=1e-6, rtol=1e-5)
        changed = tokens.clone()
        changed[:, -1] = changed[:, -1] % 49 + 1
        assert float((model(changed) - alone).abs().max()) > 1e-4


def test_each_text_is_judged_by_its_own_label_though_they_are_answered_by_length(task: Language) -> None:
    class Oracle(nn.Module):
        """Knows each text's label, whatever its place in the batch and its padding."""

        def __init__(self) -> None:
            super().__init__()
            texts, labels = task.texts("test")
            self.known = {
                tuple(texts.batch(torch.tensor([i]))[0].tolist()): int(label) for i, label in enumerate(labels)
            }

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            rows = [tuple(row[row != PADDING].tolist()) for row in tokens]
            return nn.functional.one_hot(torch.tensor([self.known[row] for row in rows]), 4).float()

    outcomes = task.evaluate(Oracle(), "test")
    assert outcomes.labels is not None
    assert outcomes.labels.tolist() == task.texts("test")[1].tolist()
    # A text with two sections has one known label.
    assert outcomes.value > 0.97


def test_word_pieces_are_learned_from_the_training_texts_alone(task: Language) -> None:
    tokenizer = task.tokenizer()
    splits = corpus().splits
    assert tokenizer.encode(splits["train"].texts[0]).tokens[0] == "[CLS]"
    assert tokenizer.encode("").ids == [tokenizer.token_to_id("[CLS]")]
    assert PADDING not in {index for text in splits["test"].texts[:50] for index in tokenizer.encode(text).ids}
    assert len(tokenizer.encode("word " * 500).ids) <= 64
    # A letter that no training text has is unknown.
    assert "[UNK]" in tokenizer.encode("Ж").tokens


def test_what_is_missing_is_asked_for_in_one_sentence(task: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match="pip install tokenizers"):
        task.tokenizer()


@pytest.mark.parametrize("setting", ["smoke", "fast", "full"])
def test_every_setting_has_a_model_of_its_size(task: Language, setting: str) -> None:
    chosen = task.at(setting)
    model = chosen.model()
    assert len(model.blocks) == chosen.size.layers
    found = find_targets(model, chosen.targets, chosen.ignore)
    kinds = [target.kind for target in found]
    assert (kinds.count("embedding"), kinds.count("linear")) == (2, 6 * chosen.size.layers + 1)
    assert chosen.recipe is Language.settings[setting]


def test_the_task_runs_to_its_packed_model_which_answers_as_pytorch_does(task: Language, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = ig.optimize(task, max_drop="10pt", match_dense=False, out=tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    assert result.report.dense.validation_metric > 0.9
    assert result.report.balance.sparsity > 0.7
    path = tmp_path / "packed.onnx"
    example = task.example()
    ig.export(
        result.model, path, example, packed=True, values=result.report.balance.precision, targets=task.targets,
        free_axes=task.free_axes(),
    )  # fmt: skip
    session = Session(path, threads=1)
    assert session.inputs[0].shape == ("batch", "length")
    texts, _ = task.texts("test")
    lengths = set()
    for chosen in torch.split(torch.argsort(texts.lengths), 23):
        tokens = texts.batch(chosen)
        lengths.add(tokens.shape[1])
        with torch.no_grad():
            expected = result.model(tokens)
        torch.testing.assert_close(torch.from_numpy(session(tokens.numpy())[0]), expected, atol=1e-4, rtol=1e-4)
    assert len(lengths - {example[0].shape[1]}) >= 3
    assert Session(result.path / "model.onnx", threads=1).inputs[0].shape == ("batch", "length")
    check_looking(task, result.path)
