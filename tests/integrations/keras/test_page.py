"""What the page about Keras shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import isogrid.keras as ik

PAGE = Path(__file__).parents[3] / "docs" / "integrations" / "keras.md"


def test_the_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = re.findall(
        r"^```\{\.python[^\n]*\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(programs) == 3
    images, labels = load_digits(return_X_y=True)
    x, y = (images / 16).astype(np.float32)[:640], keras.utils.to_categorical(labels)[:640]
    names: dict[str, Any] = {"keras": keras, "x": x, "y": y, "x_train": x, "y_train": y, "x_val": x, "y_val": y}
    names |= {"x_test": x, "y_test": y}
    if keras.backend.backend() != "tensorflow":
        programs[0] = programs[0].replace("tensorflow.keras", "keras")
    monkeypatch.chdir(tmp_path)
    exec(compile(programs[0].replace("epochs=10", "epochs=10, verbose=0"), "page", "exec"), names)
    assert ik.measure(names["model"]).sparsity >= 0.9
    assert ik.measure(keras.models.load_model("model.keras")) == ik.measure(names["model"])
    exec(compile(programs[1].replace("epochs=10", "epochs=10, verbose=0"), "page", "exec"), names)
    assert ik.measure(names["model"]).sparsity >= 0.9
    # In the time of a test, and on the model of the first program.
    monkeypatch.setattr("isogrid.frontier.writing.measure_speed", lambda *_: None)
    short = programs[2].replace("epochs=10, rung_epochs=3, lr=1e-3", "epochs=2, rung_epochs=1, lr=1e-3, ladder=(0.5,)")
    exec(compile(short, "page", "exec"), names)
    assert {"model.keras", "model.onnx"} <= {file.name for file in Path("runs", "keras").iterdir()}
    assert Path("packed.onnx").is_file()
