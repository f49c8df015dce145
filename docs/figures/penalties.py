"""What a penalty leaves of the weights: four penalties, a plain run and L1 by subgradient, trained alike on digits.

Writes docs/assets/penalties.svg (and a PNG beside it with --png, to look at) and prints the figures that the page on
sparse regularisation quotes.  Everything is seeded.

    python docs/figures/penalties.py
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import nn

import isogrid as ig
from isogrid.sparsify import Regularized
from isogrid.tasks import load_task

EPOCHS, RATE = 60, 0.05
OUT = Path(__file__).resolve().parents[1] / "assets" / "penalties.svg"
RUNS = {
    "no penalty": None,
    "L2": Regularized(penalty=ig.L2(1e-3)),
    "L1, subgradient": Regularized(penalty=ig.L1(5e-4), proximal=False),
    "L1, proximal step": Regularized(penalty=ig.L1(5e-4)),
    "elastic net, proximal step": Regularized(penalty=ig.ElasticNet(l1=5e-4, l2=5e-4)),
    "group lasso over rows, proximal step": Regularized(penalty=ig.GroupLasso(1e-3, over="row")),
}
"""Strengths at which every model still classifies digits about as well as the one without a penalty."""


@dataclass(frozen=True)
class Trained:
    """Absolute weights of both layers, and the validation accuracy."""

    weights: np.ndarray
    accuracy: float
    empty_rows: int

    @property
    def zeros(self) -> float:
        return float((self.weights == 0).mean())

    @property
    def near(self) -> float:
        """Share of the weights that are small but not zero."""
        return float(((self.weights > 0) & (self.weights < 1e-3)).mean())


def train(method: Regularized | None) -> Trained:
    """Train the task's model with `method`, None being no penalty."""
    torch.manual_seed(0)
    task = load_task("digits")
    model = task.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    steps = EPOCHS * task.steps_per_epoch()
    sparsifier = method and ig.Sparsifier(model, method, optimizer=optimizer, total_steps=steps)
    for _ in range(EPOCHS):
        for x, y in task.batches():
            loss = nn.functional.cross_entropy(model(x), y)
            if sparsifier:
                loss = loss + sparsifier.penalty()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    if sparsifier:
        sparsifier.finalize()
    model.eval()
    with torch.no_grad():
        accuracy = task.evaluate(model, "validation").value
    layers = [model[0].weight.detach(), model[2].weight.detach()]
    weights = torch.cat([layer.flatten() for layer in layers]).abs().numpy()
    return Trained(weights, accuracy, int((layers[0].abs().sum(dim=1) == 0).sum()))


def draw(axes: Axes, name: str, trained: Trained) -> None:
    """A histogram of log10 |w|, in per cent of all weights, with the exact zeros as a bar of their own at the left."""
    edges = np.linspace(-6, 0.5, 53)
    alive = trained.weights[trained.weights > 0]
    shares = 100 * np.histogram(np.log10(alive).clip(-6, 0.5), edges)[0] / trained.weights.size
    axes.bar(edges[:-1], shares, width=np.diff(edges), align="edge", color="#5b7f95")
    axes.bar([-7.1], [100 * trained.zeros], width=0.7, color="#d95f30")
    axes.text(
        -7.1, 100 * trained.zeros + 2, f"{100 * trained.zeros:.1f} %", ha="center", color="#a8431c", weight="bold"
    )
    axes.set_title(f"{name}\naccuracy {100 * trained.accuracy:.1f} %", fontsize=10)
    axes.axvline(-6.4, color="#bbbbbb", linewidth=0.8)
    axes.set_xticks([-7.1, -6, -4, -2, 0], ["0", "1e-6", "1e-4", "0.01", "1"])
    axes.set_xlim(-7.9, 0.6)
    axes.set_ylim(0, 80)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Train, draw and print."""
    torch.set_num_threads(1)
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "isogrid", "savefig.facecolor": "white"})
    figure, grid = plt.subplots(2, 3, figsize=(10, 5.6), sharex=True, sharey=True)
    print(f"{'penalty':38s} accuracy  exactly 0  0 < |w| < 1e-3  empty rows")
    for axes, (name, method) in zip(grid.flat, RUNS.items(), strict=True):
        trained = train(method)
        draw(axes, name, trained)
        print(
            f"{name:38s} {100 * trained.accuracy:6.2f} % {100 * trained.zeros:8.2f} % {100 * trained.near:13.2f} % "
            f"{trained.empty_rows:11d}"
        )
    for axes in grid[1]:
        axes.set_xlabel("absolute weight")
    for axes in grid[:, 0]:
        axes.set_ylabel("% of the weights")
    figure.tight_layout()
    figure.savefig(OUT, metadata={"Date": None})
    if "--png" in sys.argv[1:]:
        figure.savefig(OUT.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
