"""The small optimiser of what a method learns beside the weights: scores, thresholds, gates.

It is of the loop's own kind, as in the experiments of those methods, where one optimiser moved everything: Adam with
the betas and the epsilon of the weight's group where the group has betas, else SGD with the group's momentum.  Learned
parameters and their moments are buffers of the layer, so they are saved and resumed with it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from isogrid.errors import TargetError
from isogrid.sparsify.state import SparseLayer, SparseState


def learned(layer: SparseLayer, values: Tensor) -> Tensor:
    """`values` as a learned parameter: on the layer's device, of its weights' precision but not below float32."""
    return values.to(layer.mask.device, torch.promote_types(layer.weight.dtype, torch.float32))


def check_trained(owner: str, what: str, state: SparseState) -> None:
    """Raise ``TargetError`` for a frozen layer: no gradient comes from which `what` of it could be learned."""
    for layer in state.layers:
        if not layer.trained:
            raise TargetError(
                f"{owner} cannot learn the {what} of {layer.name}, which is frozen; leave it out with ignore=."
            )


class Learner:
    """Takes steps of learned parameters in a training's own optimiser's way.

    >>> layer_weight = torch.nn.Parameter(torch.ones(2, 2))
    >>> from isogrid.masks import Target
    >>> layer = SparseLayer(Target("w", layer_weight, "linear"), torch.ones(2, 2, dtype=torch.bool))
    >>> state = SparseState([layer], 10, 0, torch.optim.SGD([layer_weight], lr=0.5, momentum=0.5))
    >>> layer.buffers["score"] = torch.zeros(2)
    >>> for _ in range(2):
    ...     Learner(state).step(layer, "score", torch.tensor([1.0, -1.0]))
    >>> layer.buffers["score"]
    tensor([-1.2500,  1.2500])
    """

    def __init__(self, state: SparseState) -> None:
        self._optimizer = state.optimizer
        groups = [] if state.optimizer is None else state.optimizer.param_groups
        self._groups = {id(p): group for group in groups for p in group["params"]}

    def start(self, layer: SparseLayer, name: str, values: Tensor) -> None:
        """Make `values` a learned parameter ``layer.buffers[name]``, and note the group's learning rate of now."""
        layer.buffers[name] = learned(layer, values)
        rate = float(self._group(layer).get("lr", 0.0))
        layer.buffers["start_lr"] = torch.tensor(rate, dtype=torch.float64, device=layer.mask.device)

    def _group(self, layer: SparseLayer) -> dict[str, Any]:
        return self._groups.get(id(layer.target.parameter), {})

    def rate(self, layer: SparseLayer, lr: float | None) -> float:
        """The learning rate of this step: the group's own, or `lr` scaled as the group's schedule scales its own.

        The scale is the group's rate of now over its peak: ``max_lr`` or ``initial_lr`` where a schedule of PyTorch
        wrote one of them into the group, else the rate at `start`.  Without a group there is no step.
        """
        group = self._group(layer)
        if not group:
            return 0.0
        now = float(group["lr"])
        if lr is None:
            return now
        peak = float(group.get("max_lr", group.get("initial_lr", layer.buffers["start_lr"])))
        return lr * now / peak if peak > 0 else lr

    def step(
        self, layer: SparseLayer, name: str, gradient: Tensor, *, lr: float | None = None, decay: float | None = 0.0
    ) -> None:
        """Move ``layer.buffers[name]`` against `gradient`, which has its shape.

        Args:
            lr: as in `rate`.
            decay: coefficient of the weight decay of the learned parameter, applied as the group applies its own;
                None for the group's.
        """
        group = self._group(layer)
        rate = self.rate(layer, lr)
        values = layer.buffers[name]
        decay = float(group.get("weight_decay", 0.0)) if decay is None else decay
        gradient = gradient.to(values.dtype)
        if group.get("maximize"):
            gradient = -gradient
        if decay and group.get("decoupled_weight_decay", isinstance(self._optimizer, torch.optim.AdamW)):
            values.mul_(1 - rate * decay)
        elif decay:
            gradient = gradient + decay * values
        if "betas" in group:
            values.sub_(_adam(layer.buffers, name, gradient, group), alpha=rate)
        else:
            values.sub_(_momentum(layer.buffers, name, gradient, group), alpha=rate)


def _adam(buffers: dict[str, Tensor], name: str, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1."""
    first, second = (float(beta) for beta in group["betas"][:2])
    if f"{name}/steps" not in buffers:
        buffers[f"{name}/steps"] = torch.zeros((), dtype=torch.float64, device=gradient.device)
        buffers[f"{name}/mean"] = torch.zeros_like(gradient)
        buffers[f"{name}/square"] = torch.zeros_like(gradient)
    steps = buffers[f"{name}/steps"].add_(1)
    mean = buffers[f"{name}/mean"].lerp_(gradient, 1 - first)
    square = buffers[f"{name}/square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    count = int(steps)
    divisor = (square.sqrt() / math.sqrt(1 - second**count)).add_(float(group.get("eps", 1e-8)))
    return mean / (1 - first**count) / divisor


def _momentum(buffers: dict[str, Tensor], name: str, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    momentum = float(group.get("momentum") or 0.0)
    if momentum == 0:
        return gradient
    key = f"{name}/momentum"
    if key in buffers:
        buffers[key].mul_(momentum).add_(gradient, alpha=1 - float(group.get("dampening", 0.0)))
    else:
        buffers[key] = gradient.clone()
    velocity: Tensor = buffers[key]
    return gradient + momentum * velocity if group.get("nesterov") else velocity
