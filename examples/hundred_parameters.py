"""A network of exactly 100 parameters becomes sparse: L1 with lambda 0.01, sparse ReLU, the trigger, a threshold.

Points in seven dimensions lie inside or outside a disc that only the first two know of.  Training goes on until 90 %
of the validation points are right and the trigger has done its work.  What it zeroed, and when, is printed: first what
hangs on hidden units that never fire, or whose output L1 has taken to zero, since no gradient reaches it any more.

    python examples/hundred_parameters.py
"""

import torch
from torch import nn

import isogrid as ig

torch.manual_seed(0)


def points(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs ``[samples, 7]`` and whether the first two of them lie in the disc of radius 1.2."""
    inputs = torch.rand(samples, 7) * 4 - 2
    return inputs, (inputs[:, :2].norm(dim=1) < 1.2).float()


train, validation = points(4000), points(2000)
batches = [(train[0][i : i + 50], train[1][i : i + 50]) for i in range(0, 4000, 50)]

model = nn.Sequential(nn.Linear(7, 11), ig.SparseReLU(threshold=0.0), nn.Linear(11, 1))
assert sum(p.numel() for p in model.parameters()) == 100  # 7 * 11 + 11 and 11 + 1

optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
sparsifier = ig.Sparsifier(
    model, ig.Trigger(sparsity=0.7, patience=2), optimizer=optimizer, total_steps=1600, penalty=ig.L1(0.01)
)


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The cross-entropy; `fit` adds the penalty."""
    return nn.functional.binary_cross_entropy_with_logits(model(batch[0]).squeeze(1), batch[1])


def accuracy(model: nn.Module) -> torch.Tensor:
    """Right or wrong for each validation point."""
    return ((model(validation[0]).squeeze(1) > 0) == (validation[1] > 0.5)).float()


active = sparsifier.masks


def report(step: int) -> None:
    """Print which weights the trigger zeroed in this step."""
    for name, mask in sparsifier.masks.items():
        for output, source in (active[name] & ~mask).nonzero().tolist():
            print(f"step {step:5d}: zeroed {name}[{output}, {source}]")
        active[name] = mask


result = ig.fit(
    model, batches, optimizer=optimizer, evaluate=accuracy, max_steps=4000, until=0.90, sparsifier=sparsifier,
    loss=loss, on_step=report,
)  # fmt: skip
triggered = sum(int((~mask).sum()) for mask in sparsifier.masks.values())
counts = sparsifier.finalize()
zeros = sum(int((~mask).sum()) for mask in sparsifier.masks.values())
reached = "reached" if result.reached else "not reached"
print(f"accuracy {result.metric:.3f} after {result.steps} steps; threshold of 0.90 {reached}")
print(f"{counts['nonzeros']} of {counts['parameters']} parameters are left, {counts['sparsity']:.0%} of weights zero")
print(f"{triggered} were zeroed by the trigger, {zeros - triggered} more by L1")
print("weights left on each input:", model[0].weight.ne(0).sum(dim=0).tolist())
