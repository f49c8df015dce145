"""The sponsor's program, as it stands, on real data: with the callback and without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import isogrid.keras

PROGRAM = """
import isogrid.keras
from {keras}.models import Sequential
from {keras}.layers import Dense
from {keras}.regularizers import l1_l2
model = Sequential([
    Dense(100, activation="sparse_relu", kernel_regularizer=l1_l2(l1=0.01)),
    Dense(10, activation="softmax"),
])
model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
"""
FIT = """
model.fit(x_train, y_train, epochs=10, batch_size=32, validation_data=(x_val, y_val){callbacks})
"""


@pytest.fixture(scope="module")
def digits() -> dict[str, NDArray[np.float32]]:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y = (images[order] / 16).astype(np.float32), keras.utils.to_categorical(labels[order])
    return {"x_train": x[:1400], "y_train": y[:1400], "x_val": x[1400:], "y_val": y[1400:]}


def run(digits: dict[str, Any], lam: float | None = None, callbacks: str = "") -> Any:
    """The model that the program leaves; on TensorFlow it imports that of TensorFlow's Keras."""
    library = "tensorflow.keras" if keras.backend.backend() == "tensorflow" else "keras"
    names = dict(digits)
    program = PROGRAM.format(keras=library)
    if lam is not None:
        program = program.replace("l1=0.01", f"l1={lam}")
    keras.utils.set_random_seed(0)
    fit = FIT.format(callbacks=callbacks).replace(")\n", ", verbose=0)\n")
    exec(compile(program + fit, "program", "exec"), names)
    return names["model"]


def accuracy(model: Any, digits: dict[str, Any]) -> float:
    return float(model.evaluate(digits["x_val"], digits["y_val"], verbose=0, return_dict=True)["accuracy"])


def test_it_runs_as_it_stands_and_l1_alone_makes_few_exact_zeros(digits: dict[str, Any]) -> None:
    model = run(digits)
    assert isogrid.keras.measure(model).sparsity < 0.01
    kernel = model.layers[0].get_weights()[0]
    assert np.mean(np.abs(kernel) < 1e-2) > 0.5  # small, and not zero


def test_with_the_callback_zeros_are_exact_and_survive_files(digits: dict[str, Any], tmp_path: Path) -> None:
    gradual = "isogrid.keras.Sparsify(isogrid.keras.Gradual(sparsity=0.9))"
    model = run(digits, lam=1e-5, callbacks=f", callbacks=[{gradual}]")
    report = isogrid.keras.measure(model)
    assert report.sparsity >= 0.9
    assert accuracy(model, digits) > 0.9
    model.save(tmp_path / "model.keras")
    assert isogrid.keras.measure(model) == report
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isogrid.keras.measure(again) == report
    assert accuracy(again, digits) == accuracy(model, digits)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras itself imports it there")
def test_no_pytorch_is_needed() -> None:
    program = """
import sys
class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, WithoutTorch())
import keras, numpy as np, isogrid.keras as ik
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
model.compile("adam", "mse")
sparsify = ik.Sparsify(ik.Gradual(0.75))
model.fit(np.ones((8, 4)), np.ones((8, 4)), verbose=0, callbacks=[sparsify])
print(ik.prune(model, ik.OneShot(0.75)).sparsity, sparsify.report.sparsity)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.75", "0.75"]
