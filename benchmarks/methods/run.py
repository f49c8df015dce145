"""Every method on the same work: LeNet-300-100 on Fashion-MNIST, trained from scratch to one sparsity, equal steps.

The optimiser, its learning rate and the order of the data are the same for all, and none was tuned for any method.
Validation chooses nothing here: the last weights are measured on the test split.  Methods that work after training are
applied to the trained dense model.

    python benchmarks/methods/run.py --sparsity 0.95 --epochs 10 --seeds 1
"""

import argparse
import statistics

import torch
from torch import nn

import isogrid as ig
from isogrid.frontier.training import rate_at
from isogrid.masks import count_zeros
from isogrid.sparsify import Usage, methods, parse_method, prune
from isogrid.tasks import load_task

task = load_task("fashion-mnist")


def train(name: str | None, sparsity: float, epochs: int, seed: int) -> nn.Module:
    """A model trained with the method, or densely where there is none or it comes after training."""
    torch.manual_seed(seed)
    model = task.model()
    recipe = task.recipe
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    total = epochs * task.steps_per_epoch()
    method = None if name is None else parse_method(name, sparsity=sparsity)
    after = method is not None and method.usage is Usage.AFTER
    sparsifier = None
    if method is not None and not after:
        sparsifier = ig.Sparsifier(model, method, optimizer=optimizer, total_steps=total, seed=seed)
    step = 0
    for _ in range(epochs):
        for x, y in task.batches():
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * rate_at(step, total)
            loss = nn.functional.cross_entropy(model(x), y)
            if sparsifier is not None:
                loss = loss + sparsifier.penalty()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    if sparsifier is not None:
        sparsifier.finalize()
    elif method is not None:
        prune(model, method)
    return model.eval()


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| method | test accuracy | sparsity reached |\n|---|---|---|")
    for name in (None, *methods()):
        found, zeros = [], []
        for seed in range(options.seeds):
            model = train(name, options.sparsity, options.epochs, seed)
            with torch.no_grad():
                found.append(100 * task.evaluate(model, "test").value)
            zeros.append(100 * count_zeros(model)["sparsity"])
        spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        accuracy, sparsity = statistics.mean(found), statistics.mean(zeros)
        print(f"| {name or 'dense'} | {accuracy:.2f} %{spread} | {sparsity:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
