"""An optimiser that is started anew goes on as a new one does."""

from __future__ import annotations

import pytest
import torch

from conformance.training import OPTIMIZERS, loss_of, small_model
from isogrid.sparsify.restart import restart


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, start: int, steps: int) -> None:
    for step in range(start, start + steps):
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_goes_on_as_a_new_one(name: str) -> None:
    model, twin = small_model(), small_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 0, 4)
    twin.load_state_dict(model.state_dict())
    restart(optimizer)
    train(model, optimizer, 4, 3)
    train(twin, OPTIMIZERS[name](twin.parameters()), 4, 3)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), twin.parameters(), strict=True))


def test_options_and_a_schedule_stay() -> None:
    model = small_model()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    train(model, optimizer, 0, 1)
    schedule.step()
    restart(optimizer)
    assert optimizer.param_groups[0]["lr"] == 2.5e-3
    train(model, optimizer, 1, 1)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 1.25e-3


def test_before_the_first_step_there_is_nothing_to_forget() -> None:
    optimizer = OPTIMIZERS["adam"](small_model().parameters())
    restart(optimizer)
    assert not optimizer.state
