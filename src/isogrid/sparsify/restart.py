"""An optimiser as new."""

from __future__ import annotations

import torch


def restart(optimizer: torch.optim.Optimizer) -> None:
    """Drop what `optimizer` remembers of past steps (momentum, second moments, their counts); options stay.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.5)
    >>> weight.grad = torch.ones(1)
    >>> optimizer.step(); restart(optimizer); optimizer.step()
    >>> weight.item()
    -1.0
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state is None:
                continue
            if isinstance(optimizer, torch.optim.Adagrad):
                # The only one that makes its state when it is built, not at the first step.
                state["step"].zero_()
                state["sum"].fill_(group["initial_accumulator_value"])
            else:
                del optimizer.state[parameter]
