"""How far one optimiser step moves a weight for each unit of gradient: the step size of the proximal step.

A proximal step with any other step size has fixed points that do not minimise ``loss + penalty``.  With step size
``a`` the point at which the step after the gradient's own stands still satisfies ``dL + lam sign(w) = 0`` exactly.
So momentum, whose steps add up to ``1 / (1 - momentum)`` gradients, counts, and adaptive optimisers have a step size
for each weight (the proximal step in the optimiser's own diagonal metric; Yun, Lozano and Yang 2021,
arXiv:2102.10828).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isogrid.errors import UnsupportedError

_SUPPORTED = "SGD, Adam, AdamW, RMSprop and Adagrad"


def step_size(optimizer: torch.optim.Optimizer, parameter: Tensor) -> float | Tensor:
    """The step size of `parameter` in the step that `optimizer` just took; 0.0 if it took none for it.

    Returns a number, or a tensor of the parameter's shape for adaptive optimisers.

    Raises:
        UnsupportedError: an optimiser whose step size is not known, or one that maximises.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> step_size(torch.optim.SGD([weight], lr=0.1, momentum=0.75), weight)
    0.4
    """
    group = _group_of(optimizer, parameter)
    if group is None:
        return 0.0
    if group.get("maximize"):
        raise UnsupportedError("The proximal step needs an optimiser that minimises, and this one has maximize=True.")
    kind = next((k for k in _RULES if isinstance(optimizer, k)), None)
    if kind is None:
        raise UnsupportedError(
            f"The proximal step does not know the step size of {type(optimizer).__name__}; accepted are {_SUPPORTED}, "
            "or proximal=False for any optimiser."
        )
    return _RULES[kind](group, optimizer.state.get(parameter, {}))  # type: ignore[arg-type]


def check_step_size(optimizer: torch.optim.Optimizer) -> None:
    """Raise `UnsupportedError` now rather than at the first step."""
    step_size(optimizer, optimizer.param_groups[0]["params"][0])


def _group_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any] | None:
    for group in optimizer.param_groups:
        if any(parameter is p for p in group["params"]):
            return group
    return None


def _sgd(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:
    return float(group["lr"]) * (1 - group["dampening"]) / (1 - group["momentum"])


def _adam(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:
    if "exp_avg_sq" not in state:
        return 0.0
    squares: Tensor = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    correction = 1 - group["betas"][1] ** float(state["step"])
    return float(group["lr"]) / ((squares / correction).sqrt_() + group["eps"])


def _rmsprop(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:
    if "square_avg" not in state:
        return 0.0
    squares: Tensor = state["square_avg"]
    if group["centered"]:
        squares = (squares - state["grad_avg"].square()).clamp_(min=0)
    return float(group["lr"]) / (1 - group["momentum"]) / (squares.sqrt() + group["eps"])


def _adagrad(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:
    if float(state["step"]) == 0:
        return 0.0
    rate = float(group["lr"]) / (1 + (float(state["step"]) - 1) * group["lr_decay"])
    squares: Tensor = state["sum"]
    return rate / (squares.sqrt() + group["eps"])


_RULES = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.Adagrad: _adagrad,
}
