"""What a method sees and changes while it makes a model sparse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from isogrid.calibration import Calibration
from isogrid.errors import UnsupportedError
from isogrid.masks import Target, zero_pruned_
from isogrid.rules.state import Masks, Number, State, check_masks
from isogrid.sparsify.touched import keep_, keep_rows_


@dataclass(eq=False)
class SparseLayer:
    """One target with its mask (True = active) and what the method remembers about each weight."""

    target: Target
    mask: Tensor
    buffers: dict[str, Tensor] = field(default_factory=dict)
    gradient: Tensor | None = None
    """Within ``before_step``: the gradient, reduced over ranks and unscaled; zero at pruned places unless the method
    asks for dense gradients."""
    scratch: dict[str, Tensor] = field(default_factory=dict)
    """What a method with dense weights behind the effective ones keeps within one step; not saved."""
    by_rows: bool = False
    """Whether its gradients are sparse, so that an optimiser's step moves the rows that they list and no others."""

    @property
    def pruned(self) -> Tensor:
        """Where the mask is False, as a new tensor."""
        return ~self.mask

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def key(self) -> str:
        """What its random numbers go by."""
        return self.target.name

    @property
    def weight(self) -> Tensor:
        """The weight's data: written in place by methods, never recorded by autograd."""
        return self.target.parameter.data

    @property
    def canonical_weight(self) -> Tensor:
        """A view of the weight with its output on axis 0 and its input on axis 1."""
        return self.target.canonical(self.weight)

    @property
    def size(self) -> int:
        return self.mask.numel()

    @property
    def active(self) -> int:
        return int(torch.count_nonzero(self.mask))

    @property
    def nonzeros(self) -> int:
        """How many weights are not zero."""
        return int(torch.count_nonzero(self.weight))

    @property
    def trained(self) -> bool:
        """Whether the training moves the weight; else it is frozen."""
        return self.target.parameter.requires_grad

    @property
    def finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return bool(torch.isfinite(self.weight).all())

    @property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape."""
        return self.target.shape

    def set_mask(self, mask: Tensor) -> None:
        self.mask.copy_(mask)

    def to_array(self, tensor: Tensor) -> npt.NDArray[Any]:
        """``tensor`` (of the parameter's shape) as a numpy array in canonical view."""
        canonical = self.target.canonical(tensor.detach()).cpu()
        if canonical.dtype in (torch.bfloat16, torch.float16):
            canonical = canonical.float()
        return np.ascontiguousarray(canonical.numpy())

    def from_array(self, array: npt.NDArray[Any]) -> Tensor:
        """The inverse of ``to_array``."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return self.target.canonical(tensor).contiguous().to(self.mask.device)

    def read_mask(self) -> npt.NDArray[np.bool_]:
        """The mask as ``to_array`` gives it; not to be written into."""
        return self.to_array(self.mask)

    def read_weight(self) -> npt.NDArray[Any]:
        """The weight as ``to_array`` gives it; not to be written into."""
        return self.to_array(self.weight)

    def write_weight(self, where: npt.NDArray[np.bool_], values: npt.NDArray[Any]) -> None:
        """Give the weights at those places those values, all of them in canonical view."""
        new = self.from_array(values).to(self.weight.dtype)
        self.weight.copy_(torch.where(self.from_array(where), new, self.weight))


def dense_layers(targets: Iterable[Target]) -> list[SparseLayer]:
    """The layers of `targets` with all weights active.

    Raises:
        UnsupportedError: a weight is on the ``meta`` device, where it has a shape and no values.
    """
    layers = []
    for target in targets:
        if target.parameter.is_meta:
            raise UnsupportedError(
                f"{target.name} is on the meta device and has no values; load or initialise the model first "
                "(model.to_empty(device=...), then its weights)."
            )
        layers.append(SparseLayer(target, torch.ones_like(target.parameter, dtype=torch.bool)))
    return layers


@dataclass(eq=False)
class SparseState(State):
    """The layers, the clock and the method's own numbers.  Everything here is saved and resumed."""

    layers: list[SparseLayer]
    total_steps: int
    seed: int
    optimizer: torch.optim.Optimizer | None = None
    step: int = 0
    """Optimiser steps that were really taken (a step skipped by a gradient scaler is none)."""
    numbers: dict[str, Number] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """What a method remembers beyond its layers, such as biases to rewind to."""
    changes: int = 0
    """How often masks were set; not saved, for it only tells whether something moved."""
    model: nn.Module | None = None
    """The whole model that the layers belong to, for methods that run it."""
    calibration: Calibration | None = None
    """The data that the method was given to look at, if any."""
    effective: Callable[[SparseLayer], Tensor] | None = None
    """The weights that a parameter shall hold, where dense ones stand behind them; None where there are no others."""
    sampled: bool = False
    """Whether the parameters hold the weights that the method sampled for this step's forward passes."""

    def fit_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`masks` on the layers' devices.

        Raises:
            TargetError: they do not name every target and nothing else, or one is not a boolean tensor of its shape.
        """
        check_masks(masks, {layer.name: tuple(layer.mask.shape) for layer in self.layers}, torch.bool)
        return {layer.name: masks[layer.name].to(layer.mask.device) for layer in self.layers}

    def write_masks(self, masks: Masks) -> None:
        known = {layer.name: layer for layer in self.layers}
        self.set_masks({name: known[name].from_array(mask) for name, mask in masks.items()})

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Take over new masks; newly pruned weights become zero at once, and their optimiser state where it is theirs.

        Where dense weights stand behind the effective ones they live on, and so does their optimiser state.
        """
        self.changes += 1
        for layer in self.layers:
            mask = masks.get(layer.name)
            if mask is not None:
                layer.set_mask(mask)
        self.hold_zeros(everywhere=True)

    def hold_zeros(self, *, everywhere: bool = False) -> None:
        """Put zeros where weights are pruned; ``everywhere`` also in gradients and in the optimiser's state.

        Else a table with sparse gradients is looked at in the rows of its gradient alone.
        """
        for layer in self.layers:
            gradient = layer.target.parameter.grad
            if self.effective is not None:
                layer.weight.copy_(self.effective(layer))
            elif everywhere:
                zero_pruned_(layer.weight, layer.mask)
                for value in [*([] if gradient is None else [gradient]), *self.optimizer_state(layer)]:
                    keep_(value, layer.mask)
            elif gradient is not None and gradient.is_sparse:
                keep_rows_(layer.weight, layer.mask, gradient)
            elif gradient is not None or not layer.by_rows:
                zero_pruned_(layer.weight, layer.mask)

    def optimizer_state(self, layer: SparseLayer) -> list[Tensor]:
        """The tensors in which the optimiser remembers something about each weight of a layer (momentum, say)."""
        if self.optimizer is None:
            return []
        entries = self.optimizer.state.get(layer.target.parameter, {})
        return [value for value in entries.values() if isinstance(value, Tensor) and value.shape == layer.mask.shape]
