"""Scores of the units of a model's groups."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.calibration import Calibration, Forward, Loss
from isogrid.errors import TrainingError, UsageError
from isogrid.structure.groups import Group
from isogrid.structure.tracing import Trace
from isogrid.structure.unit_scores import Sums, UnitScore


def score_groups(
    model: nn.Module,
    trace: Trace,
    groups: Sequence[Group],
    score: UnitScore,
    data: Iterable[Any] | None,
    forward: Forward | None,
    loss: Loss | None,
) -> dict[str, Tensor]:
    """The scores of the units of each group, float64 [units], by the group's name.

    Raises:
        UsageError: the score needs data and there is none, or a batch whose loss is not known.
        DataError: there is no batch.
        TrainingError: a score is not finite.
    """
    if score.needs_data and data is None and groups:
        raise UsageError(f"Score {score} needs gradients and got no data; pass data=, batches of inputs and labels.")

    @cache
    def products() -> list[Mapping[str, Tensor]]:
        return list(_products(copy.deepcopy(model), Calibration([] if data is None else data, forward, loss)))

    weights = {name: tensor for name, tensor in trace.tensors.items() if name in trace.parameters}
    scores = {}
    for group in groups:
        values = score(Sums(_places(trace, group), len(group.units)), weights, products)
        if not bool(values.isfinite().all()):
            raise TrainingError(f"Scores of {group.name} are not finite; check the model's weights and the loss.")
        scores[group.name] = values
    return scores


def _places(trace: Trace, group: Group) -> dict[tuple[str, int], Tensor]:
    """For each parameter and axis that the group's units lie across, where in the group each index belongs."""
    units = trace.coupling.units
    position = torch.full((len(units),), -1)
    position[torch.tensor(group.units)] = torch.arange(len(group.units))
    return {site: position[units.find(trace.sites[site])] for site in group.sites if site[0] in trace.parameters}


def _products(model: nn.Module, data: Calibration) -> Iterator[Mapping[str, Tensor]]:
    """For each batch the gradient of its loss times the weight, by parameter."""
    model.eval().requires_grad_(True)
    parameters = dict(model.named_parameters())
    for batch in data:
        gradients = torch.autograd.grad(data.loss_of(model, batch), list(parameters.values()), allow_unused=True)
        yield {
            name: torch.zeros_like(parameter) if gradient is None else (parameter * gradient).detach()
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }
