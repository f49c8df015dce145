"""Scores of whole units."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.structure.groups import find_groups
from isogrid.structure.ranking import score_groups
from isogrid.structure.tracing import trace
from isogrid.structure.unit_scores import UnitNorm, UnitTaylor, parse_unit_score


def test_the_norm_is_over_every_weight_that_goes_with_the_unit() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    followed = trace(model, torch.randn(1, 2, 3, 3))
    (group, *_), _ = find_groups(followed)
    found = score_groups(model, followed, [group], UnitNorm(), None, None, None)[group.name]
    conv, norm, _, linear = model
    columns = linear.weight.reshape(2, 3, 4)
    for unit in range(3):
        parts = [conv.weight[unit], conv.bias[unit], norm.weight[unit], norm.bias[unit], columns[:, unit]]
        wanted = sum(float(part.detach().double().square().sum()) for part in parts) ** 0.5
        assert float(found[unit]) == pytest.approx(wanted)


def test_the_expansion_foretells_what_a_loss_loses_with_a_unit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batches = [(torch.randn(5, 3).double(), torch.randint(0, 2, (5,))) for _ in range(2)]
    followed = trace(model, batches[0][0])
    (group, *_), _ = find_groups(followed)
    found = score_groups(model, followed, [group], UnitTaylor(), batches, None, None)[group.name]
    total = torch.zeros(4, dtype=torch.float64)
    for x, labels in batches:
        gates = torch.ones(4, dtype=torch.float64, requires_grad=True)
        scaled = torch.tanh((x @ model[0].weight.T + model[0].bias) * gates) * gates
        loss = nn.functional.cross_entropy(scaled @ model[2].weight.T + model[2].bias, labels)
        # The derivative by a gate on all weights of a unit is the sum of g w over them.
        total += torch.autograd.grad(loss, gates)[0].square() / 2
    torch.testing.assert_close(found, total)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_scores_have_names() -> None:
    assert parse_unit_score("Magnitude") == UnitNorm()
    assert str(parse_unit_score("taylor")) == "taylor"
