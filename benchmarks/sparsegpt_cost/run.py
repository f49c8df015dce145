"""What SparseGPT adds to the linear algebra that it cannot do without.

One linear layer is pruned with `isogrid.prune` on random inputs.  Measured beside it, in turns so that a busy machine
slows both: the product that makes the Hessian of the inputs, a Cholesky factorisation and the inverse from it, and one
dense product of the layer's size.  The goal is twice the sum of the three.

    python benchmarks/sparsegpt_cost/run.py [--size 4096] [--rows 2048] [--turns 3] [--threads 2]
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import isogrid as ig

GOAL = 2.0


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of the work."""
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def reference(x: Tensor, weight: Tensor) -> dict[str, float]:
    """Seconds of each of the three."""
    product, hessian = timed(lambda: x.T @ x)
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    inverse, _ = timed(lambda: torch.cholesky_inverse(torch.linalg.cholesky(hessian)))
    dense, _ = timed(lambda: weight @ hessian)
    return {"Hessian product": product, "Cholesky and inverse": inverse, "dense product": dense}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = options.size
    x = torch.randn(options.rows, size)
    layer = nn.Linear(size, size, bias=False)
    weight = layer.weight.detach().clone()
    methods: dict[str, Any] = {
        "unstructured": ig.SparseGPT(sparsity=0.5),
        "2:4": ig.SparseGPT(pattern="2:4"),
    }
    parts: dict[str, list[float]] = {}
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(options.turns):
        for name, seconds in reference(x, weight).items():
            parts.setdefault(name, []).append(seconds)
        for name, method in methods.items():
            layer.weight.data.copy_(weight)
            seconds, report = timed(lambda method=method: ig.prune(layer, method, data=[x]))
            assert report.sparsity == 0.5
            taken[name].append(seconds)
    total = [sum(turn) for turn in zip(*parts.values(), strict=True)]
    print(f"{size} x {size}, {options.rows} calibration rows, {options.threads} threads, {options.turns} turns\n")
    print("| work | seconds | of the three |\n|---|---|---|")
    for name, seconds in {**parts, "the three": total}.items():
        ratios = [one / whole for one, whole in zip(seconds, total, strict=True)]
        print(f"| {name} | {statistics.median(seconds):.2f} | {statistics.median(ratios):.2f} |")
    for name, seconds in taken.items():
        ratio = statistics.median([one / whole for one, whole in zip(seconds, total, strict=True)])
        met = f"goal {GOAL:g}: {'reached' if ratio <= GOAL else 'missed'}"
        print(f"| SparseGPT, {name} | {statistics.median(seconds):.2f} | {ratio:.2f} ({met}) |")
    layer_megabytes = 4 * size * size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"\nPeak memory of the process: {peak:.0f} MiB; the layer takes {layer_megabytes:.0f} MiB.")


if __name__ == "__main__":
    main()
