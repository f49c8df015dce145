"""What a sparsifier adds to a training step.

Two trainings of the same model on the same data take turns, one with the sparsifier and one without, so that a busy
machine slows both.  A turn is as long as the distance of two mask updates and so holds one.  Printed: the median of the
turns' ratios and, as spread, their quartiles.  LeNet-300-100 at batch 128 is the hard case, for its step does little
more than touch each weight once; the convolutional net uses each weight at many places.

    python benchmarks/overhead/run.py [--turns 15] [--optimizer adam]
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import isogrid as ig
from isogrid.sparsify import Regularized

TURN = 50
"""Steps in a turn, one mask update among them."""

METHODS: dict[str, Any] = {
    "gradual": ig.Gradual(sparsity=0.9),
    "static": ig.Static(sparsity=0.9),
    "trigger": ig.Trigger(sparsity=0.9),
    "trigger, revival": ig.Trigger(sparsity=0.9, revive=4.0),
    "l1, proximal": ig.L1(1e-5),
    "l1, subgradient": Regularized(penalty=ig.L1(1e-5), proximal=False),
    "l2": ig.L2(1e-5),
    "group lasso": ig.GroupLasso(1e-5),
    "aware": ig.Aware(sparsity=0.9),
}


def lenet() -> nn.Module:
    """LeNet-300-100: 266,200 weights."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def conv() -> nn.Module:
    """Three convolutions and a classifier: 94,464 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(128, 10),
    )  # fmt: skip


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adam_fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
}


class Training:
    """Endless steps on random labels, too many to learn by heart: vanishing gradients would slow the arithmetic."""

    def __init__(self, make: Callable[[], nn.Module], batch: int, optimizer: str, method: Any) -> None:
        torch.manual_seed(0)
        self.model = make()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.x, self.y = torch.randn(20, batch, 1, 28, 28), torch.randint(10, (20, batch))
        # Long enough that all turns lie on the ramp; a hundredth of it would be the default distance of updates.
        options = {"optimizer": self.optimizer, "total_steps": 100 * TURN}
        self.sparsifier = method and ig.Sparsifier(self.model, method, **options)

    def turn(self) -> float:
        """Take a turn; milliseconds a step."""
        begun = time.perf_counter()
        for step in range(TURN):
            loss = nn.functional.cross_entropy(self.model(self.x[step % 20]), self.y[step % 20])
            if self.sparsifier is not None:
                loss = loss + self.sparsifier.penalty()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return 1000 * (time.perf_counter() - begun) / TURN


def compare(make: Callable[[], nn.Module], batch: int, optimizer: str, method: Any, turns: int) -> list[float]:
    """Milliseconds of the plain step, then the quartiles of the ratio."""
    plain, sparse = Training(make, batch, optimizer, None), Training(make, batch, optimizer, method)
    plain.turn(), sparse.turn()
    gc.collect()
    times = [(plain.turn(), sparse.turn()) for _ in range(turns)]
    return [statistics.median(t[0] for t in times), *statistics.quantiles([t[1] / t[0] for t in times], n=4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for title, make, batch in (("LeNet-300-100, batch 128", lenet, 128), ("convolutional net, batch 32", conv, 32)):
        print(f"{title}, {options.optimizer}, one thread")
        for name, method in METHODS.items():
            plain, low, middle, high = compare(make, batch, options.optimizer, method, options.turns)
            print(f"  {name:18} {plain:6.2f} ms -> x{middle:.2f}  ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
