"""Sparse training in Keras on three backends: the sponsor's program, and LeNet-300-100 beside PyTorch.

Both on Fashion-MNIST (Debian package dataset-fashion-mnist).  The program is shown dense, with the L1 strength it was
written with and with one that trains, each alone and the latter with the callback: accuracy, exact zeros, and weights
that are merely small.  LeNet-300-100 is pruned gradually to 95 % in Keras and, from the same kind of start and with the
same optimiser, in PyTorch.

    make test-keras    # makes .venv-keras
    .venv-keras/bin/python benchmarks/keras/run.py [--backends tensorflow,torch,jax] [--epochs 8] [--seeds 2]
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

RESULT = Path(__file__).resolve().parents[1] / "results" / "keras.json"
BACKENDS = ("tensorflow", "torch", "jax")
SPARSITY = 0.95
TRAINS = 1e-5
"""An L1 strength at which the program learns: the penalty starts at a hundredth of the loss."""
PROGRAM = {
    "dense": (0.0, False),
    "L1 0.01": (0.01, False),
    f"L1 {TRAINS:g}": (TRAINS, False),
    f"L1 {TRAINS:g} + Sparsify 90 %": (TRAINS, True),
}


def splits() -> dict[str, Any]:
    """Fashion-MNIST as numpy arrays: pixels standardised, labels one-hot."""
    import numpy as np

    from isogrid.tasks.fashion_mnist import FashionMNIST

    task = FashionMNIST()
    found = {}
    for split in ("train", "validation", "test"):
        x, y = (tensor.numpy() for tensor in task.data(split))  # type: ignore[arg-type]
        found[split] = (x.reshape(len(x), -1), np.eye(10, dtype=np.float32)[y])
    return found


def program(data: dict[str, Any], lam: float, sparsify: bool, seed: int, epochs: int, batch: int) -> dict[str, Any]:
    """The sponsor's program."""
    import keras
    import numpy as np
    from keras.layers import Dense
    from keras.models import Sequential
    from keras.regularizers import l1_l2

    import isogrid.keras

    keras.utils.set_random_seed(seed)
    model = Sequential(
        [
            Dense(100, activation="sparse_relu", kernel_regularizer=l1_l2(l1=lam)),
            Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    callbacks = [isogrid.keras.Sparsify(isogrid.keras.Gradual(sparsity=0.9))] if sparsify else []
    model.fit(*data["train"], epochs=epochs, batch_size=batch, verbose=0, callbacks=callbacks)
    first = np.abs(model.layers[0].get_weights()[0])
    return {**measured(model, data), "below_1e-3": float(np.mean(first < 1e-3))}


def lenet(data: dict[str, Any], seed: int, epochs: int) -> dict[str, Any]:
    """LeNet-300-100, pruned gradually, in Keras."""
    import keras

    import isogrid.keras

    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(units, activation="relu") for units in (300, 100)]
    model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    callback = isogrid.keras.Sparsify(isogrid.keras.Gradual(sparsity=SPARSITY))
    model.fit(*data["train"], epochs=epochs, batch_size=128, verbose=0, callbacks=[callback])
    return measured(model, data)


def measured(model: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Test accuracy and exact zeros."""
    import isogrid.keras

    accuracy = model.evaluate(*data["test"], batch_size=1000, verbose=0, return_dict=True)["accuracy"]
    return {"accuracy": float(accuracy), "sparsity": isogrid.keras.measure(model).sparsity}


def lenet_in_torch(data: dict[str, Any], seed: int, epochs: int) -> dict[str, Any]:
    """The same in PyTorch: Keras' initial distribution and its Adam."""
    import torch
    from torch import nn

    import isogrid as ig

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    x, y = (torch.from_numpy(array) for array in data["train"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
    steps = epochs * -(-len(x) // 128)
    sparsifier = ig.Sparsifier(model, ig.Gradual(sparsity=SPARSITY), optimizer=optimizer, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(128):
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
            optimizer.zero_grad()
    sparsity = sparsifier.finalize()["sparsity"]
    x, y = (torch.from_numpy(array) for array in data["test"])
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y.argmax(1)).float().mean())
    return {"accuracy": accuracy, "sparsity": sparsity}


def work(options: argparse.Namespace) -> None:
    """What one backend does, in a process of its own; a JSON line a result."""
    data = splits()
    for seed in range(options.seeds):
        jobs: dict[str, Any] = {}
        if options.worker == "pytorch":
            jobs["LeNet-300-100, 95 %"] = lambda seed=seed: lenet_in_torch(data, seed, options.epochs)
        else:
            for name, (lam, sparsify) in PROGRAM.items():
                jobs[name] = lambda lam=lam, sparsify=sparsify, seed=seed: program(
                    data, lam, sparsify, seed, options.epochs, options.batch
                )
            jobs["LeNet-300-100, 95 %"] = lambda seed=seed: lenet(data, seed, options.epochs)
        for name, job in jobs.items():
            begun = time.perf_counter()
            found = {"library": options.worker, "what": name, "seed": seed, **job()}
            print(json.dumps({**found, "seconds": time.perf_counter() - begun}), flush=True)


def main() -> None:
    """Print tables in Markdown and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32, help="of the program; LeNet-300-100 takes 128")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    if importlib.util.find_spec("keras") is None:
        print("Keras is not in this environment: `make test-keras` makes .venv-keras, whose Python runs this.")
        return
    from benchmarks.common.machine import description

    rows: list[dict[str, Any]] = []
    for library in ("pytorch", *options.backends.split(",")):
        backend = "torch" if library == "pytorch" else library
        quiet = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
        settings = [f"--epochs={options.epochs}", f"--batch={options.batch}", f"--seeds={options.seeds}"]
        done = subprocess.run(
            [sys.executable, __file__, f"--worker={library}", *settings],
            env={**os.environ, **quiet}, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        rows += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        show([row for row in rows if row["library"] == library])
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": "keras", "machine": description(), "options": vars(options), "rows": rows}
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def show(rows: list[dict[str, Any]]) -> None:
    """The means over seeds, a row a setting."""
    print("| library | what | accuracy | exact zeros | below 1e-3 | seconds |")
    print("|---|---|---|---|---|---|")
    for what in dict.fromkeys(row["what"] for row in rows):
        of = [row for row in rows if row["what"] == what]
        accuracy, sparsity, seconds = (sum(r[k] for r in of) / len(of) for k in ("accuracy", "sparsity", "seconds"))
        small = f"{100 * sum(r['below_1e-3'] for r in of) / len(of):.1f} %" if "below_1e-3" in of[0] else ""
        print(
            f"| {of[0]['library']} | {what} | {100 * accuracy:.2f} % | {100 * sparsity:.2f} % | {small} | "
            f"{seconds:.0f} |", flush=True,
        )  # fmt: skip
    print()


if __name__ == "__main__":
    main()
