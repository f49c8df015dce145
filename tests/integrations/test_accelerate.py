"""The three lines on what Accelerate has prepared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from conformance.training import OPTIMIZERS, assert_same_bits, batch, small_model
from integrations.tiny import COLLAPSE, bits, training_methods
from isogrid.errors import UnsupportedError
from isogrid.integrations.accelerate import sparsifier
from isogrid.penalties import L1
from isogrid.sparsify import KeepZeros, Method, OneShot, Regularized, Sparsifier, Static, Trigger, prune
from isogrid.sparsify.hooks import raw_optimizer

pytestmark = pytest.mark.filterwarnings(COLLAPSE)
STEPS = 12
METHODS = training_methods()


@pytest.fixture(autouse=True)
def _no_accelerator_is_left_over() -> Iterator[None]:
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class Run:
    """A model and an optimiser that Accelerate has prepared, and a sparsifier on both."""

    def __init__(self, method: Method, *, seed: int = 0, optimizer: str = "adam", steps: int = STEPS, **settings: Any):
        scaler = settings.pop("scaler", None)
        self.accelerator = Accelerator(cpu=True, **settings)
        if scaler is not None:
            self.accelerator.scaler = scaler  # stands in for that of fp16, which Accelerate has on GPUs only
        model = small_model(seed)
        if isinstance(method, KeepZeros):
            prune(model, OneShot(sparsity=0.6))
        self.model, self.optimizer = self.accelerator.prepare(model, OPTIMIZERS[optimizer](model.parameters()))
        data = {"data": [batch(100), batch(101)], "loss": lambda answer, pair: loss_of(answer, pair[1])}
        self.sparsifier = sparsifier(
            self.accelerator, self.model, method, optimizer=self.optimizer, total_steps=steps,
            **(data if method.needs_data else {}),
        )  # fmt: skip
        self.accelerator.register_for_checkpointing(self.sparsifier)

    def train(self, start: int = 0, stop: int = STEPS, overflow: int | None = None) -> None:
        for number in range(start, stop):
            with self.accelerator.accumulate(self.model):
                x, y = batch(number)
                loss = loss_of(self.model(x), y) * (torch.inf if number == overflow else 1.0)
                penalty = self.accelerator.gradient_accumulation_steps * self.sparsifier.penalty()
                self.accelerator.backward(loss + penalty)
                self.optimizer.step()
                self.optimizer.zero_grad()


def loss_of(answer: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(answer, wanted)


@pytest.mark.parametrize("name", METHODS)
def test_a_training_resumed_by_load_state_is_the_undisturbed_one(tmp_path: Path, name: str) -> None:
    one = Run(METHODS[name])
    one.train(stop=5)
    one.accelerator.save_state(str(tmp_path))
    one.train(start=5)
    wanted = bits(one.model, one.sparsifier)
    other = Run(METHODS[name], seed=9)
    other.accelerator.load_state(str(tmp_path))
    assert other.sparsifier.state.step == 5
    other.train(start=5)
    assert_same_bits(bits(other.model, other.sparsifier), wanted)
    assert other.sparsifier.finalize() == one.sparsifier.finalize()


def test_it_rides_on_the_optimiser_below() -> None:
    run = Run(Static(sparsity=0.5))
    assert run.sparsifier.state.optimizer is run.optimizer.optimizer
    assert raw_optimizer(run.optimizer) is run.optimizer.optimizer
    assert raw_optimizer(raw_optimizer(run.optimizer)) is run.optimizer.optimizer


def test_gradient_accumulation_counts_steps_and_the_penalty_once() -> None:
    method = Regularized(penalty=L1(0.02), proximal=False, sparsity=0.5)
    run = Run(method, optimizer="sgd", steps=6, gradient_accumulation_steps=2)
    run.train()
    assert run.sparsifier.state.step == 6
    plain = small_model()
    optimizer = OPTIMIZERS["sgd"](plain.parameters())
    wanted = Sparsifier(plain, method, optimizer=optimizer, total_steps=6)
    for step in range(6):
        for x, y in (batch(2 * step), batch(2 * step + 1)):
            (loss_of(plain(x), y) / 2 + wanted.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
    for (name, value), other in zip(run.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, other, msg=name, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw_fused"])
def test_a_scaler_is_known(optimizer: str) -> None:
    """Hidden gradients are unscaled, and a step that overflows counts for nothing."""
    method = Trigger(sparsity=0.6, delta_t=1, patience=1, revive=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = Run(method, optimizer=optimizer, steps=STEPS - 1, scaler=scaler)
    scaled.train(overflow=3)
    assert scaled.sparsifier.state.step == STEPS - 1
    plain = Run(method, optimizer=optimizer, steps=STEPS - 1)
    plain.train(stop=3)
    plain.train(start=4)
    for one, other in zip(scaled.sparsifier.state.layers, plain.sparsifier.state.layers, strict=True):
        torch.testing.assert_close(one.buffers["average"], other.buffers["average"], rtol=1e-3, atol=1e-5)
        assert torch.equal(one.mask, other.mask)


def test_bf16_trains() -> None:
    run = Run(Static(sparsity=0.5), mixed_precision="bf16")
    run.train()
    assert run.sparsifier.finalize()["sparsity"] == 0.5


@pytest.mark.parametrize("kind", [DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM])
def test_engines_that_move_the_weights_themselves_are_refused(kind: DistributedType) -> None:
    model = small_model()
    accelerator: Any = SimpleNamespace(distributed_type=kind, scaler=None)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with pytest.raises(UnsupportedError, match=f"{kind.value} moves copies of the weights that no sparsifier sees"):
        sparsifier(accelerator, model, Static(sparsity=0.5), optimizer=optimizer, total_steps=1)
