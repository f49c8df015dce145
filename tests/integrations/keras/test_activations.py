"""Sparse activations: what they compute, that Keras knows them by name, and that its files do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from isogrid.errors import UsageError
from isogrid.keras import SparseReLU, SparseTanh, sparse_relu, sparse_tanh

X = np.array([-2.0, -0.5, 0.0, 0.4, 0.5, 0.6, np.nan], np.float32)


def values(result: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(result))


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_what_is_not_above_the_threshold_is_zero(threshold: float) -> None:
    wanted = np.where(threshold >= X, 0, X)
    assert np.array_equal(values(sparse_relu(X, threshold)), wanted, equal_nan=True)
    wanted = np.where(np.abs(X) <= threshold, 0, np.tanh(X))
    assert np.allclose(values(sparse_tanh(X, threshold)), wanted, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", ["sparse_relu", "sparse_tanh"])
def test_layers_know_them_by_name_and_files_keep_them(name: str, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=name)])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("f")
    assert np.array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))
    assert keras.activations.get(name) is again.layers[0].activation


@pytest.mark.parametrize("layer", [SparseReLU(0.25), SparseTanh(0.75)])
def test_layers_keep_their_threshold(layer: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), layer])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").layers[0]
    assert type(again) is type(layer)
    assert again.threshold == layer.threshold


@pytest.mark.parametrize("made", [SparseReLU, SparseTanh, lambda t: sparse_relu(X, t), lambda t: sparse_tanh(X, t)])
@pytest.mark.parametrize("threshold", [-1.0, float("nan"), True])
def test_a_threshold_that_makes_no_sense_is_refused(made: Any, threshold: Any) -> None:
    with pytest.raises(UsageError, match=r"accepted is a finite number >= 0\.$"):
        made(threshold)
