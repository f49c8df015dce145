"""The task files that the pages of the uses give as templates do what the pages say."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from isogrid.errors import DataError
from isogrid.metrics import Outcomes
from isogrid.tasks import Task, load_task

PAGES = Path(__file__).resolve().parents[2] / "docs" / "uses"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def template(page: str, name: str) -> Task:
    text = (PAGES / page).read_text(encoding="utf-8")
    found = re.search(rf'```python title="{name}"\n(.*?)```', text, re.DOTALL)
    assert found is not None
    Path(name).write_text(found[1], encoding="utf-8")
    return load_task(name)


def learns(task: Task, steps: int) -> float:
    """The metric on the test split after a few steps of Adam."""
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        for batch in task.batches():
            task.loss(task.forward(model, batch), batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        model.eval()
        assert model(*task.example()).shape[0] == 4
        outcomes = task.evaluate(model, "test")
    assert isinstance(outcomes, Outcomes)
    return outcomes.value


def test_commands_are_learned_from_a_folder_of_recordings() -> None:
    task = template("speech.md", "commands.py")
    with pytest.raises(DataError, match=r"There is no recording in recordings/validation; needed are WAV files"):
        task.example()
    random = np.random.default_rng(0)
    for split, speakers in {"train": 12, "validation": 4, "test": 4}.items():
        for word, hertz in {"yes": 400, "no": 1500}.items():
            folder = Path("recordings", split, word)
            folder.mkdir(parents=True)
            for speaker in range(speakers):
                at = np.arange(random.integers(3000, 7000)) / 16000
                sound = np.sin(2 * np.pi * hertz * random.uniform(0.8, 1.2) * at) + random.normal(0, 0.1, len(at))
                data = (8000 * sound).astype("<i2").tobytes()
                head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
                body = head + b"data" + struct.pack("<I", len(data)) + data
                (folder / f"{split}{speaker}-1.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert task.class_names() == ("yes", "no")
    assert task.data("test").voices[0] == "test0"  # type: ignore[attr-defined]
    assert learns(task, 15) == 1.0


def test_pictures_are_learned_from_arrays() -> None:
    task = template("images.md", "pictures.py")
    with pytest.raises(DataError, match=r"There is no pictures/validation\.npz"):
        task.example()
    Path("pictures").mkdir()
    random = np.random.default_rng(0)
    for split, count in {"train": 60, "validation": 12, "test": 12}.items():
        labels = np.arange(count) % 3
        images = random.integers(0, 80, (count, 3, 12, 12))
        images[np.arange(count), labels] += 120  # red, green or blue
        np.savez(f"pictures/{split}.npz", images=images.astype(np.uint8), labels=labels)
    assert task.model()[-1].out_features == 3  # type: ignore[index]
    assert learns(task, 40) == 1.0
