"""One session, several threads: right answers, always the same, and no memory that grows."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from conformance.packed import inputs, model, node, pack, session, weights

THREADS = 4


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def everything(random: np.random.Generator, threads: int = 2) -> Any:
    """A model with all five operators: indices to a table, a convolution over the steps, an LSTM, a GRU, a layer."""
    width, units = 24, 16
    constants: dict[str, Any] = {
        "table": pack(weights(random, 50, width), "int8", "dense"),
        "conv": pack(weights(random, width, width * 3)),
        "w": pack(weights(random, 4 * units, width), "fp16"),
        "r": pack(weights(random, 4 * units, units), "fp16"),
        "w2": pack(weights(random, 3 * units, units)),
        "r2": pack(weights(random, 3 * units, units)),
        "fc": pack(weights(random, 30, units), "int8"),
        "bias": inputs(random, 30),
        "one": np.array([1], np.int64),
    }
    nodes = [
        node("SparseGather", ["table", "i"], ["tokens"], "table", columns=width),  # [batch, steps, width]
        helper.make_node("Transpose", ["tokens"], ["planes"], perm=[0, 2, 1]),
        node("SparseConv", ["planes", "conv", "", "planes"], ["mixed"], "conv", rows=width, kernel_shape=[3],
             pads=[1, 1], activation="relu"),
        helper.make_node("Transpose", ["mixed"], ["steps"], perm=[2, 0, 1]),
        node("SparseLSTM", ["steps", "w", "r"], ["h"], "lstm", hidden_size=units),
        helper.make_node("Squeeze", ["h", "one"], ["h3"]),
        node("SparseGRU", ["h3", "w2", "r2"], ["all", "g"], "gru", hidden_size=units, direction="reverse"),
        node("SparseLinear", ["g", "fc", "bias"], ["y"], "fc", rows=30, activation="gelu"),
    ]  # fmt: skip
    return session(model(nodes, {"i": ("batch", "steps")}, ["y"], constants, {"i": TensorProto.INT64}), threads)


def run_in_threads(made: Any, feeds: list[dict[str, Any]], runs: int) -> list[str]:
    """Each thread runs all feeds in turn, `runs` times in all; what went wrong."""
    right = [made.run(None, feed)[0] for feed in feeds]
    start = threading.Barrier(THREADS)
    wrong: list[str] = []

    def work(first: int) -> None:
        start.wait()
        for i in range(first, first + runs // THREADS):
            try:
                found = made.run(None, feeds[i % len(feeds)])[0]
            except Exception as problem:
                wrong.append(str(problem))
                return
            if not np.array_equal(found, right[i % len(feeds)]):
                wrong.append(f"run {i} gave something else")

    workers = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return wrong


def various(random: np.random.Generator) -> list[dict[str, Any]]:
    sizes = [(1, 1), (1, 9), (3, 4), (8, 16), (2, 1), (5, 7)]
    return [{"i": random.integers(-50, 50, size)} for size in sizes]


@pytest.mark.parametrize("pool", [1, 2, 8])
def test_threads_of_python_share_a_session(pool: int, random: np.random.Generator) -> None:
    assert run_in_threads(everything(random, pool), various(random), 400) == []


def test_sessions_at_once_do_not_mix(random: np.random.Generator) -> None:
    x = inputs(random, 3, 40)
    layers = [weights(random, 30, 40) for _ in range(8)]
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        one = node("SparseLinear", ["x", "w"], ["y"], rows=30)
        for _ in range(5):
            made = session(model([one], {"x": ("n", 40)}, ["y"], {"w": pack(layers[i])}), 1 + i % 3)
            found[i] = made.run(None, {"x": x})[0]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(layers))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i, layer in enumerate(layers):
        np.testing.assert_array_equal(found[i], x @ layer.T)


def resident() -> float:
    """Megabytes of this process in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_weight_of_several_nodes_is_laid_out_once(random: np.random.Generator) -> None:
    weight = (random.random((2048, 2048)) < 0.5).astype(np.float32)
    data = pack(weight, "fp32", "bitmap")
    names = [f"x{i}" for i in range(12)]
    nodes = [node("SparseLinear", [name, "w"], [f"y{name}"], name, rows=2048) for name in names]
    written = model(nodes, dict.fromkeys(names, ("n", 2048)), [f"y{name}" for name in names], {"w": data})
    before = resident()
    made = session(written)
    # One takes 16 MB, and reading it twice that for a moment.
    assert resident() - before < 100
    x = inputs(random, 2, 2048)
    for found in made.run(None, dict.fromkeys(names, x)):
        np.testing.assert_array_equal(found, x @ weight.T)


def test_nodes_that_share_a_weight_and_nothing_else(random: np.random.Generator) -> None:
    weight, bias, x = weights(random, 30, 40), inputs(random, 30), inputs(random, 3, 40)
    nodes = [
        node("SparseLinear", ["x", "w"], ["plain"], "plain", rows=30),
        node("SparseLinear", ["x", "w", "b"], ["biased"], "biased", rows=30),
        node("SparseLinear", ["x", "w", "b"], ["positive"], "positive", rows=30, activation="relu"),
        node("SparseLinear", ["x", "w"], ["clipped"], "clipped", rows=30, activation="clip", high=1.0),
        node("SparseLinear", ["x", "w"], ["higher"], "higher", rows=30, activation="clip", high=2.0),
    ]
    asked = ["plain", "biased", "positive", "clipped", "higher"]
    made = session(model(nodes, {"x": ("n", 40)}, asked, {"w": pack(weight), "b": bias}))
    plain = x @ weight.T
    right = [plain, plain + bias, np.maximum(plain + bias, 0), np.clip(plain, 0, 1), np.clip(plain, 0, 2)]
    for found, expected in zip(made.run(None, {"x": x}), right, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_sessions_leave_nothing_behind(random: np.random.Generator) -> None:
    weight = (random.random((512, 2048)) < 0.5).astype(np.float32)
    one = node("SparseLinear", ["x", "w"], ["y"], rows=512)
    written = model([one], {"x": ("n", 2048)}, ["y"], {"w": pack(weight, "fp32", "bitmap")})
    x = inputs(random, 3, 2048)

    def use() -> None:
        session(written).run(None, {"x": x})

    for _ in range(5):
        use()
    before = resident()
    for _ in range(30):
        use()
    assert resident() - before < 20  # each takes 10 MB and more


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_soak(random: np.random.Generator) -> None:
    """`ISOGRID_SOAK_RUNS=100000` is the full one."""
    runs = int(os.environ.get("ISOGRID_SOAK_RUNS", "10000"))
    made, feeds = everything(random), various(random)
    assert run_in_threads(made, feeds, 2000) == []
    before = resident()
    assert run_in_threads(made, feeds, runs) == []
    grown = resident() - before
    print(f"{runs} runs from {THREADS} threads: {before:.1f} MB before, {grown:+.2f} MB after")
    assert grown < 4
