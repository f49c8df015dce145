"""Group lasso and Hoyer-square: values by hand, gradients that are finite at zero, and Keras' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from isogrid.errors import UsageError
from isogrid.keras import GroupLasso, HoyerSquare

W = np.array([[3.0, 0.0, 1.0], [4.0, 0.0, 1.0]], np.float32)


def test_values_by_hand() -> None:
    assert float(GroupLasso(0.1)(W)) == pytest.approx(0.1 * 2**0.5 * (5 + 0 + 2**0.5))
    assert float(GroupLasso(0.1, over="channel")(W)) == pytest.approx(0.1 * 3**0.5 * (10**0.5 + 17**0.5))
    assert float(HoyerSquare(0.1)(W)) == pytest.approx(0.1 * 81 / 27)
    assert float(HoyerSquare()(np.zeros((2, 2), "f"))) == 0


@pytest.mark.parametrize("regularizer", [GroupLasso(0.05), GroupLasso(0.05, over="channel"), HoyerSquare(0.05)])
def test_training_goes_through_zeros_and_files_keep_them(regularizer: Any, tmp_path: Path) -> None:
    layer = keras.layers.Dense(3, kernel_regularizer=regularizer, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 2)).astype("f")
    model.fit(x, x @ W, verbose=0)
    assert np.isfinite(layer.get_weights()[0]).all()
    assert np.count_nonzero(layer.get_weights()[0]) > 0
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").layers[0].kernel_regularizer
    assert again.get_config() == regularizer.get_config()


@pytest.mark.parametrize("made", [GroupLasso, HoyerSquare])
def test_a_strength_that_makes_no_sense_is_refused(made: Any) -> None:
    with pytest.raises(UsageError, match=r"got lam=-1; accepted is a finite number >= 0\.$"):
        made(-1)


def test_groups_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UsageError, match=r"accepted are 'row' and 'channel'\.$"):
        GroupLasso(over="column")
