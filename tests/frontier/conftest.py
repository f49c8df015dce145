"""A tiny task, its parts as a training script has them, and runs without the report's page, which is the slow part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import isogrid.frontier.writing
from isogrid import Recipe
from isogrid.formats.files import write_atomically
from isogrid.frontier import OptimizeResult, optimize
from isogrid.metrics import Outcomes
from isogrid.tasks import ClassificationTask, load_task

TINY = Path(__file__).with_name("tiny_task.py")


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has tests of its own."""
    monkeypatch.setattr(
        isogrid.frontier.writing, "write_html", lambda _, path: write_atomically(path, b"<html></html>")
    )


@pytest.fixture(autouse=True)
def no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing has tests of its own, and the run that is `finished` has it."""
    monkeypatch.setattr(isogrid.frontier.writing, "measure_speed", lambda *_: None)


@pytest.fixture(scope="package")
def tiny() -> ClassificationTask:
    task = load_task(str(TINY))
    assert isinstance(task, ClassificationTask)
    return task


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> OptimizeResult:
    """One whole run of the tiny task, for tests that only look."""
    return optimize(str(TINY), max_drop="2pt", out=tmp_path_factory.mktemp("run") / "whole")


@pytest.fixture
def script(tiny: ClassificationTask) -> Callable[..., dict[str, Any]]:
    """The arguments of `optimize` that a training script with a model and a loader would give."""

    def evaluate(split: Any) -> Callable[[nn.Module], Outcomes]:
        return lambda model: tiny.evaluate(model, split)

    def arguments(**changes: Any) -> dict[str, Any]:
        torch.manual_seed(5)
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*tiny.data("train")), batch_size=32, shuffle=True
        )
        given = {
            "model": tiny.model(), "train": loader, "evaluate": evaluate("validation"), "test": evaluate("test"),
            "example": tiny.example(), "max_drop": "3pt", "match_dense": False,
            "recipe": Recipe(epochs=3, rung_epochs=1, lr=1e-2, ladder=(0.5, 0.9)),
        }  # fmt: skip
        return {name: value for name, value in {**given, **changes}.items() if value is not None}

    return arguments
