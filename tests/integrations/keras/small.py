"""Models and data that are small enough to train in no time."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

INPUTS, OUTPUTS, BATCH = 12, 3, 8


def data(batches: int = 10, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Inputs and targets of a linear problem."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batches * BATCH, INPUTS)).astype(np.float32)
    return x, (x @ rng.normal(size=(INPUTS, OUTPUTS)) / 3).astype(np.float32)


def model(optimizer: Any = "adam", seed: int = 0, **options: Any) -> Any:
    """Two dense layers: 12 x 16 and 16 x 3 weights, and biases."""
    keras.utils.set_random_seed(seed)
    net = keras.Sequential(
        [keras.Input((INPUTS,)), layers.Dense(16, activation="tanh", name="first"), layers.Dense(OUTPUTS, name="last")]
    )
    net.compile(optimizer, "mse", **options)
    return net


def fit(net: Any, *callbacks: Any, epochs: int = 4, batches: int = 10, **options: Any) -> Any:
    """Train without shuffling, so that the batches are the same on every backend."""
    x, y = data(batches)
    return net.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks), **options
    )


def kernels(net: Any) -> dict[str, NDArray[Any]]:
    """The kernels by name."""
    return {
        variable.path.removeprefix(f"{net.name}/"): np.array(keras.ops.convert_to_numpy(variable))
        for variable in net.weights
        if "kernel" in variable.path
    }
