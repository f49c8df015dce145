"""One rank of data-parallel trainings: ``ranks_driver.py FOLDER``, with RANK, WORLD_SIZE and the master's address set.

Every trainer in turn; writes ``FOLDER/RANK.pt``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from conformance.training import OPTIMIZERS, batch, small_model
from integrations.tiny import TARGETS, Sentences, tiny_bert
from isogrid.errors import UnsupportedError
from isogrid.integrations import accelerate, lightning, transformers
from isogrid.penalties import L1, L2
from isogrid.sparsify import Gradual, Regularized, Sparsifier, Static, Trigger

STEPS = 8
METHODS: dict[str, dict[str, Any]] = {
    "gradual": {"method": Gradual(sparsity=0.6, delta_t=1)},
    "revival": {"method": Trigger(sparsity=0.6, delta_t=1, patience=1, revive=0.5), "penalty": L2(1e-3)},
    "subgradient": {"method": Regularized(penalty=L1(0.01), proximal=False, sparsity=0.5)},
}


def outcome(model: nn.Module, sparsifier: Sparsifier | None) -> dict[str, Any]:
    """Everything that must be the same on all ranks, and for which data it was trained."""
    assert sparsifier is not None
    state = sparsifier.state_dict()
    return {
        "masks": state["masks"],
        "numbers": {name: float(value) for name, value in state["numbers"].items()},
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "buffers": state["buffers"],
        "sparsity": sparsifier.finalize()["sparsity"],
    }


def with_transformers(name: str, folder: Path) -> dict[str, Any]:
    callback = transformers.SparsifierCallback(targets=TARGETS, **METHODS[name])
    arguments = TrainingArguments(
        output_dir=str(folder / name), max_steps=STEPS, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        learning_rate=5e-3, save_strategy="steps", save_steps=5, report_to="none", disable_tqdm=True, use_cpu=True,
        logging_strategy="no", ddp_backend="gloo",
    )  # fmt: skip
    trainer = Trainer(model=tiny_bert(dropout=0.0), args=arguments, train_dataset=Sentences(), callbacks=[callback])
    trainer.train()
    assert isinstance(trainer.model_wrapped, nn.parallel.DistributedDataParallel)
    first = outcome(trainer.model, callback.sparsifier)
    again = transformers.SparsifierCallback(targets=TARGETS, **METHODS[name])
    resumed = Trainer(model=tiny_bert(9, dropout=0.0), args=arguments, train_dataset=Sentences(), callbacks=[again])
    resumed.train(resume_from_checkpoint=str(folder / name / "checkpoint-5"))
    first["resumed"] = outcome(resumed.model, again.sparsifier)["masks"]
    return first


class Module(pl.LightningModule):
    """The small model, on data that differs from rank to rank."""

    def __init__(self) -> None:
        super().__init__()
        self.body = small_model()

    def training_step(self, _: Any, index: int) -> Tensor:
        x, y = batch(100 * self.global_rank + index)
        return nn.functional.mse_loss(self.body(x), y)

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS["sgd_momentum"](self.parameters())


def with_lightning(name: str, folder: Path, **options: Any) -> dict[str, Any]:
    callback = lightning.SparsifierCallback(**METHODS[name])
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=STEPS, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, callbacks=[callback], **options,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, DataLoader(Sentences(), 2))
    assert trainer.world_size == 2
    return outcome(module, callback.sparsifier)


def with_accelerate(name: str) -> dict[str, Any]:
    accelerator = Accelerator(cpu=True)
    model = small_model()
    wrapped, optimizer = accelerator.prepare(model, OPTIMIZERS["sgd_momentum"](model.parameters()))
    riding = accelerate.sparsifier(accelerator, wrapped, optimizer=optimizer, total_steps=STEPS, **METHODS[name])
    for step in range(STEPS):
        x, y = batch(100 * accelerator.process_index + step)
        accelerator.backward(nn.functional.mse_loss(wrapped(x), y) + riding.penalty())
        optimizer.step()
        optimizer.zero_grad()
    return outcome(model, riding)


def refusals() -> dict[str, str]:
    """What is said to sharded models; Accelerate itself shards on GPUs only."""
    accelerator = Accelerator(cpu=True)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    models: dict[str, Any] = {
        "fsdp1": FullyShardedDataParallel(small_model(), device_id=torch.device("cpu")),
        "fsdp2": fully_shard(small_model(), mesh=mesh),
    }
    said = {}
    for name, model in models.items():
        optimizer = accelerator.prepare(OPTIMIZERS["sgd"](model.parameters()))
        try:
            accelerate.sparsifier(accelerator, model, Static(sparsity=0.5), optimizer=optimizer, total_steps=1)
        except UnsupportedError as refusal:
            said[name] = str(refusal)
    return said


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in METHODS:
        results[f"lightning/{name}"] = with_lightning(name, folder)
    results["lightning/accumulating"] = with_lightning("revival", folder, accumulate_grad_batches=2)
    for name in METHODS:
        results[f"accelerate/{name}"] = with_accelerate(name)
        results[f"transformers/{name}"] = with_transformers(name, folder)
    results["refused"] = refusals()
    torch.save(results, folder / f"{os.environ['RANK']}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
