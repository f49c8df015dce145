"""What sparsity costs in this version: a training step with a sparsifier, and stock ONNX Runtime on a sparse file.

Prints the two rows of the README in which Isogrid loses.  LeNet-300-100, one thread, medians.

    python docs/figures/costs.py
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

import isogrid as ig


def median_ms(call: Callable[[], object], warm_up: int, times: int) -> float:
    """The median duration of a call, in milliseconds."""
    for _ in range(warm_up):
        call()
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken)


def lenet() -> nn.Sequential:
    """LeNet-300-100 with seeded weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


class Training:
    """Steps at batch 128; with a sparsifier that updates its masks every hundredth step, on the ramp to 90 %."""

    def __init__(self, *, sparse: bool, steps: int) -> None:
        self.model = lenet()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        # Too many random labels to learn by heart: gradients that vanish would slow the arithmetic down.
        self.x, self.y = torch.randn(100, 128, 784), torch.randint(10, (100, 128))
        method = ig.Gradual(sparsity=0.9)
        self.sparsifier = (
            ig.Sparsifier(self.model, method, optimizer=self.optimizer, total_steps=steps) if sparse else None
        )

    def steps(self, count: int) -> float:
        """Take that many steps; milliseconds a step, mask updates among them."""
        begun = time.perf_counter()
        for batch in range(count):
            loss = nn.functional.cross_entropy(self.model(self.x[batch]), self.y[batch])
            if self.sparsifier is not None:
                loss = loss + self.sparsifier.penalty()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return 1000 * (time.perf_counter() - begun) / count


def step_ms() -> tuple[float, float]:
    """Without and with a sparsifier: medians of runs that take turns, so that a busy machine slows both."""
    plain, sparse = Training(sparse=False, steps=10_000), Training(sparse=True, steps=10_000)
    turns = [(plain.steps(100), sparse.steps(100)) for _ in range(10)]
    return statistics.median(turn[0] for turn in turns), statistics.median(turn[1] for turn in turns)


def latency_ms(path: Path) -> float:
    """What stock ONNX Runtime takes for one sample."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: np.random.default_rng(0).standard_normal((1, 784)).astype(np.float32)}
    return median_ms(lambda: session.run(None, feed), warm_up=200, times=5000)


def main() -> None:
    """Print both rows."""
    torch.set_num_threads(1)
    plain, sparse_step = step_ms()
    print(f"training step: {plain:.3f} ms without, {sparse_step:.3f} ms with a sparsifier")
    with tempfile.TemporaryDirectory() as folder:
        model, dense, sparse = lenet(), Path(folder, "dense.onnx"), Path(folder, "sparse.onnx")
        dense_bytes = ig.export(model, dense, torch.zeros(1, 784))
        ig.prune(model, ig.OneShot(sparsity=0.95))
        sparse_bytes = ig.export(model, sparse, torch.zeros(1, 784))
        print(f"ONNX file at 95 %: {dense_bytes:,} -> {sparse_bytes:,} bytes")
        print(f"ONNX Runtime, one sample: {latency_ms(dense):.4f} ms dense, {latency_ms(sparse):.4f} ms sparse")


if __name__ == "__main__":
    main()
