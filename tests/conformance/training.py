"""A small training, the same on every run, on which methods and the sparsifier are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.penalties import Penalty
from isogrid.sparsify import Method, ShadowMethod, Sparsifier

STEPS = 40
"""Long enough for several updates of the masks and a recovery behind the ramp."""

Optimizers = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Optimizers] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=1e-3),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "sgd_foreach": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, foreach=True),
    "sgd_fused": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=5e-3),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=5e-3, amsgrad=True, weight_decay=1e-2),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=5e-3, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=5e-3, weight_decay=0.1),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=5e-3, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=2e-3, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=2e-2, initial_accumulator_value=0.1),
}


def small_model(seed: int = 0) -> nn.Sequential:
    """256 weights in two targets."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))


def batch(step: int, samples: int = 16) -> tuple[Tensor, Tensor]:
    """Inputs ``[samples, 12]`` and what a fixed linear map with noise makes of them, ``[samples, 4]``."""
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(samples, 12, generator=generator)
    wanted = torch.linspace(-1, 1, 48).reshape(12, 4)
    return x, x @ wanted + 0.1 * torch.randn(samples, 4, generator=generator)


def loss_of(model: nn.Module, step: int) -> Tensor:
    """The mean squared error on the batch of that step."""
    x, y = batch(step)
    return nn.functional.mse_loss(model(x), y)


class Run:
    """A model, its optimiser and a sparsifier on both, at the same start on every call."""

    def __init__(
        self, method: Method | Penalty, optimizer: str = "sgd_momentum", *, steps: int = STEPS, **options: Any
    ) -> None:
        self.model: nn.Module = options.pop("model", None) or small_model()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.sparsifier = Sparsifier(self.model, method, optimizer=self.optimizer, total_steps=steps, **options)

    @property
    def state(self) -> Any:
        """The sparsifier's state."""
        return self.sparsifier.state

    def step(self) -> None:
        """One step on the batch that is due."""
        loss = loss_of(self.model, self.state.step) + self.sparsifier.penalty()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def steps(self, until: int | None = None) -> Iterator[int]:
        """Step, and yield after each step how many were taken; to the end, or up to `until`."""
        while self.state.step < (self.state.total_steps if until is None else until):
            self.step()
            yield self.state.step

    def finish(self) -> Run:
        """Take all steps that are left."""
        for _ in self.steps():
            pass
        return self

    def save(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
        }

    def load(self, saved: dict[str, Any]) -> Run:
        """Go on from a checkpoint."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.sparsifier.load_state_dict(saved["sparsifier"])
        return self

    def bits(self) -> dict[str, Tensor]:
        """All numbers that a resumed training must share with an undisturbed one."""
        numbers = {
            "numbers": torch.tensor([float(self.state.numbers[name]) for name in sorted(self.state.numbers)]).double()
        }
        moments = {
            f"{layer.name}/{index}": tensor
            for layer in self.state.layers
            for index, tensor in enumerate(self.state.optimizer_state(layer))
        }
        buffers = {f"{layer.name}/{key}": value for layer in self.state.layers for key, value in layer.buffers.items()}
        masks = {f"{name}/mask": mask for name, mask in self.sparsifier.masks.items()}
        tensors = {f"tensors/{name}": value for name, value in self.state.tensors.items()}
        return {**self.model.state_dict(), **numbers, **moments, **buffers, **masks, **tensors}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """The same names, and under each the same numbers to the last bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def assert_effective(run: Run) -> None:
    """Pruned weights and all that belongs to them is exactly zero, unless dense weights live on behind them."""
    for layer in run.state.layers:
        assert torch.equal(layer.pruned, ~layer.mask)
        assert not layer.weight[layer.pruned].any(), layer.name
        if isinstance(run.sparsifier.method, ShadowMethod):
            assert torch.equal(layer.weight, run.sparsifier.method.effective(run.state, layer)), layer.name
            continue
        gradient = layer.target.parameter.grad
        assert gradient is None or not gradient[layer.pruned].any(), layer.name
        for tensor in run.state.optimizer_state(layer):
            assert not tensor[layer.pruned].any(), layer.name
