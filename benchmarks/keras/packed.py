"""A Keras model, pruned in Keras, from Keras to packed ONNX: the same answers, and what it gains in bytes and time.

    make test-keras    # makes .venv-keras
    KERAS_BACKEND=tensorflow .venv-keras/bin/python benchmarks/keras/packed.py [--sparsity 0.9] [--threads 2]

An MLP 1024-4096-4096-1024 and a small convolutional net, random weights, pruned at once by magnitude.  The dense
and the packed files run in ONNX Runtime, taking turns; answers are compared with Keras's before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import isogrid.keras as ik
from isogrid.runtime.benchmarking.contestants import in_onnxruntime
from isogrid.runtime.session import Session
from isogrid.runtime.timing import Candidate, race, ratio


def mlp() -> tuple[Any, dict[int, Any]]:
    """The model, and inputs by batch size."""
    stack = [layers.Dense(4096, "relu"), layers.Dense(4096, "relu"), layers.Dense(1024)]
    return keras.Sequential([keras.Input((1024,), name="x"), *stack]), {1: (1, 1024), 64: (64, 1024)}


def convolutions() -> tuple[Any, dict[int, Any]]:
    """Channels last, as Keras has them."""
    stack = [layers.Conv2D(width, 3, padding="same", activation="relu") for width in (64, 128, 128)]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    return keras.Sequential([keras.Input((32, 32, 16), name="x"), *stack, *head]), {
        1: (1, 32, 32, 16),
        16: (16, 32, 32, 16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {100 * given.sparsity:g} % zeros")
    print("| model | samples | dense ms | packed f32 ms | faster | packed int8 ms | faster | bytes f32, int8 |")
    print("|---|---|---|---|---|---|---|---|")
    for name, make in (("MLP 1024-4096-4096-1024", mlp), ("three 3x3 convolutions, 32 x 32", convolutions)):
        keras.utils.set_random_seed(0)
        model, shapes = make()
        for samples, shape in shapes.items():
            _row(name, model, samples, shape, given)


def _row(name: str, model: Any, samples: int, shape: tuple[int, ...], given: argparse.Namespace) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = {"dense": Path(folder, "dense.onnx")}
        sparse = keras.models.clone_model(model)
        sparse.set_weights(model.get_weights())
        ik.export(model, files["dense"], x)
        ik.prune(sparse, ik.OneShot(given.sparsity))
        for values in ("fp32", "int8"):
            files[values] = Path(folder, f"{values}.onnx")
            ik.export(sparse, files[values], x, packed=True, values=values)
        expected = np.asarray(keras.ops.convert_to_numpy(sparse(x)))
        (answer,) = Session(files["fp32"], threads=given.threads).run([x])
        error = float(np.abs(answer - expected).max() / np.abs(expected).max())
        assert error < 1e-4, error
        feeds = {key: {Session(path, threads=1).inputs[0].name: x} for key, path in files.items()}
        calls = {key: in_onnxruntime(str(path), feeds[key], given.threads) for key, path in files.items()}
        found = race({key: Candidate(call, given.threads) for key, call in calls.items()}, seconds=given.seconds)
        sizes = {key: path.stat().st_size for key, path in files.items()}
    cells = [f"{1e3 * found['dense'].median:.3g}"]
    for key in ("fp32", "int8"):
        faster = ratio(found["dense"], found[key])
        cells += [f"{1e3 * found[key].median:.3g}", f"{faster.median:.2f}x ({faster.low:.2f} to {faster.high:.2f})"]
    bytes_ = ", ".join(f"{sizes[key] / sizes['dense']:.3f}x" for key in ("fp32", "int8"))
    print(f"| {name} | {samples} | {' | '.join(cells)} | {bytes_} |", flush=True)


if __name__ == "__main__":
    main()
