"""How far one optimiser step moves a weight for each unit of gradient: the step size of the proximal step.

A proximal step with any other step size has fixed points that do not minimise ``loss + penalty``.  With step size
``a`` the point at which the step after the gradient's own stands still satisfies ``dL + lam sign(w) = 0`` exactly.
So momentum, whose steps add up to ``1 / (1 - momentum)`` gradients, counts, and adaptive optimisers have a step size
for each weight (the proximal step in the optimiser's own diagonal metric; Yun, Lozano and Yang 2021,
arXiv:2102.10828).  A weight that no gradient has reached has no metric of its own, for the optimiser knows nothing of
it (``lr / eps`` would take it to zero at once): it is given the mean one of its tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isogrid.errors import UnsupportedError

_SUPPORTED = "SGD, Adam, AdamW, RMSprop and Adagrad"


class StepSizes:
    """The step sizes of the step that an optimiser just took.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.ones(2)
    >>> StepSizes(torch.optim.SGD([weight], lr=0.1, momentum=0.75)).of(weight)
    0.4
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}

    def of(self, parameter: Tensor) -> float | Tensor:
        """A number, or a tensor of the parameter's shape for adaptive optimisers; 0.0 if there was no step for it.

        Raises:
            UnsupportedError: an optimiser whose step size is not known, or one that maximises.
        """
        group = self._groups.get(id(parameter))
        if group is None:
            return 0.0
        if group.get("maximize"):
            raise UnsupportedError(
                "The proximal step needs an optimiser that minimises, and this one has maximize=True; proximal=False "
                "goes with any optimiser."
            )
        rule = next((rule for kind, rule in _RULES.items() if isinstance(self._optimizer, kind)), None)
        if rule is None:
            raise UnsupportedError(
                f"The proximal step does not know the step size of {type(self._optimizer).__name__}; accepted are "
                f"{_SUPPORTED}, or proximal=False for any optimiser."
            )
        if parameter.grad is None:
            return 0.0
        return rule(group, self._optimizer.state.get(parameter, {}))


def _sgd(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:  # noqa: ARG001 - a rule like the others
    rate = float(group["lr"])
    if not group["momentum"]:
        return rate
    return rate * (1 - float(group["dampening"])) / (1 - float(group["momentum"]))


def _adam(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:
    if "exp_avg_sq" not in state:
        return 0.0
    squares: Tensor = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    correction = 1 - group["betas"][1] ** float(state["step"])
    return _over(float(group["lr"]), (squares / correction).sqrt_(), squares, group["eps"])


def _rmsprop(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:
    if "square_avg" not in state:
        return 0.0
    squares: Tensor = state["square_avg"]
    if group["centered"]:
        squares = (squares - state["grad_avg"].square()).clamp_(min=0)
    return _over(float(group["lr"]) / (1 - group["momentum"]), squares.sqrt(), state["square_avg"], group["eps"])


def _adagrad(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:
    rate = float(group["lr"]) / (1 + (float(state["step"]) - 1) * group["lr_decay"])
    squares: Tensor = state["sum"]
    return _over(rate, squares.sqrt(), squares, group["eps"])


def _over(rate: float, roots: Tensor, squares: Tensor, eps: float) -> float | Tensor:
    """``rate / (roots + eps)``, where `squares` is zero that of the mean root, and 0.0 where it is zero everywhere."""
    untouched = squares == 0
    touched = untouched.numel() - int(torch.count_nonzero(untouched))
    if touched == 0:
        return 0.0
    if touched < untouched.numel():
        mean = roots.masked_fill(untouched, 0).sum(dtype=torch.float64) / touched
        roots = torch.where(untouched, mean.to(roots.dtype), roots)
    return roots.add_(eps).reciprocal_().mul_(rate)  # in place: nobody else needs the roots


_RULES: dict[type[torch.optim.Optimizer], Callable[[dict[str, Any], dict[str, Any]], float | Tensor]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.Adagrad: _adagrad,
}
