"""One rank of a data-parallel training: ``ranks_driver.py RANK WORLD FOLDER``.  Writes ``FOLDER/RANK.pt``.

Every rank trains on its own data, with every method in turn.
"""

from __future__ import annotations

import datetime
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from conformance.training import OPTIMIZERS, small_model
from isogrid.errors import UnsupportedError
from isogrid.penalties import L1
from isogrid.scores import Gradient
from isogrid.sparsify import (
    ACDC,
    IMP,
    SET,
    Aware,
    Gradual,
    HardConcrete,
    Method,
    Movement,
    Regularized,
    RigL,
    ShadowMethod,
    SoftMovement,
    SoftThreshold,
    SparseState,
    Sparsifier,
    Static,
    TopKAST,
    Trigger,
)

STEPS = 24


@dataclass(frozen=True)
class Quarrelsome(Method):
    """Masks that differ from rank to rank, as those of gradients that differ in a last bit may."""

    def after_step(self, state: SparseState) -> None:
        if state.step % 5 == 0:
            for layer in state.layers:
                layer.buffers["seen"] = torch.full_like(layer.weight, float(dist.get_rank()))
            state.numbers["mood"] = dist.get_rank() + 0.5
            generator = torch.Generator().manual_seed(100 * state.step + dist.get_rank())
            state.set_masks(
                {layer.name: torch.rand(layer.mask.shape, generator=generator) < 0.5 for layer in state.layers}
            )


METHODS: dict[str, Any] = {
    "gradual": Gradual(sparsity=0.8, delta_t=3),
    "gradient": Gradual(sparsity=0.8, delta_t=3, score=Gradient()),
    "static": Static(sparsity=0.8),
    "snip": Static(sparsity=0.7, score="snip"),
    "trigger": Trigger(sparsity=0.6, delta_t=2, patience=1),
    "revival": Trigger(sparsity=0.6, delta_t=2, patience=1, revive=1.0),
    "aware": Aware(sparsity=0.8, floor=0.5, delta_t=2),
    "l1": Regularized(penalty=L1(0.05)),
    "subgradient": Regularized(penalty=L1(0.05), proximal=False, sparsity=0.5),
    "quarrelsome": Quarrelsome(),
    "set": SET(sparsity=0.8, delta_t=3),
    "rigl": RigL(sparsity=0.8, delta_t=4, window=3),
    "acdc": ACDC(sparsity=0.8),
    "imp": IMP(sparsity=0.8, rounds=2),
    "topkast": TopKAST(sparsity=0.8, delta_t=2),
    "movement": Movement(sparsity=0.8, delta_t=2),
    "soft_movement": SoftMovement(sparsity=0.8, delta_t=2, lam=50.0),
    "str": SoftThreshold(sparsity=0.6, delta_t=2, s_init=-3.0),
    "l0": HardConcrete(sparsity=0.6, delta_t=2, lam=0.01),
    "l0_rows": HardConcrete(pattern="row", lam=0.01, gate_lr=0.1),
}


def train(method: Any, rank: int, *, compiled: bool = False, unused: bool = False) -> dict[str, Any]:
    """Train on this rank's data, and return everything that must be the same on all ranks."""
    model = small_model()
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(model, find_unused_parameters=unused)
    if compiled:
        wrapped = torch.compile(wrapped, backend="eager")
    optimizer = OPTIMIZERS["adam"](model.parameters())
    generator = torch.Generator().manual_seed(rank)
    data = [torch.randn(8, 12, generator=generator)] if method.needs_data else None
    sparsifier = Sparsifier(
        wrapped,
        method,
        optimizer=optimizer,
        total_steps=STEPS,
        data=data,
        loss=lambda answer, _: answer.square().mean(),
    )
    averages = []
    for step in range(STEPS):
        x = torch.randn(8, 12, generator=generator)
        (wrapped(x).square().mean() + sparsifier.penalty()).backward()
        for layer in sparsifier.state.layers:
            gradient = layer.target.parameter.grad
            used = method.used(sparsifier.state, layer) if isinstance(method, ShadowMethod) else layer.mask
            assert gradient is None or used is None or not gradient[~used].any(), layer.name
        optimizer.step()
        optimizer.zero_grad()
        if step in (6, 12) and rank == 0:  # only one rank measures, and what it says counts for all
            sparsifier.observe(0.1 if step == 6 else 0.9)
        averages.append(
            {n: {k: v.clone() for k, v in b.items()} for n, b in sparsifier.state_dict()["buffers"].items()}
        )
    return {
        "masks": sparsifier.masks,
        "weights": model.state_dict(),
        "numbers": {name: float(value) for name, value in sparsifier.state.numbers.items()},
        "moments": [moment for layer in sparsifier.state.layers for moment in sparsifier.state.optimizer_state(layer)],
        "buffers": averages,
        "done": sparsifier.finalize(),
    }


def refusals() -> dict[str, str]:
    """What is said to models whose weights are sharded, the whole of them or one layer."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    models: dict[str, Any] = {
        "fsdp": FullyShardedDataParallel(small_model(), device_id=torch.device("cpu")),
        "fsdp_inside": nn.Sequential(FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu"))),
        "fully_shard": fully_shard(small_model(), mesh=mesh),
    }
    said = {}
    for name, model in models.items():
        try:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            Sparsifier(model, Static(sparsity=0.5), optimizer=optimizer, total_steps=1)
        except UnsupportedError as refusal:
            said[name] = str(refusal)
    return said


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )  # fmt: skip
    results = {name: train(method, rank) for name, method in METHODS.items()}
    results["compiled"] = train(METHODS["gradual"], rank, compiled=True)
    results["unused"] = train(METHODS["revival"], rank, unused=True)
    results["refused"] = refusals()
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
