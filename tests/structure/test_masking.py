"""The reference that a smaller model is compared with, and what happens when they differ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import isogrid as ig
from isogrid.errors import UnsupportedError
from isogrid.structure.masking import masked_answer
from isogrid.structure.tracing import trace


def test_units_are_blanked_out_and_norms_do_not_see_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Sigmoid(), nn.Linear(6, 2))
    x = torch.randn(4, 3)
    followed = trace(model, x)
    units = followed.coupling.units
    gone = torch.isin(units.find(torch.arange(len(units))), units.find(followed.sites["0.weight", 0][[1, 4]]))
    (found,) = masked_answer(model, x, followed, gone)
    kept = [0, 2, 3, 5]
    hidden = nn.functional.layer_norm(model[0](x)[:, kept], (4,), model[1].weight[kept], model[1].bias[kept])
    wanted = torch.sigmoid(hidden) @ model[3].weight[:, kept].T + model[3].bias
    torch.testing.assert_close(found, wanted.detach())
    assert bool(model[0].weight.detach()[1].any())


class Moody(nn.Module):
    """Does something else at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.moods = iter([torch.relu, torch.tanh, torch.sigmoid, torch.relu, torch.tanh])

    def __deepcopy__(self, memo: object) -> Moody:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.b(next(self.moods)(self.a(x)))


def test_a_model_that_does_not_do_the_same_twice_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"ran aten\.sigmoid\.default where it had run aten\.tanh\.default"):
        ig.shrink(Moody(), torch.ones(2, 4), sparsity=0.5)


class Wide(nn.Module):
    """Needs one of two layers as wide as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.a.out_features + self.b.out_features < 9:
            raise ValueError("too narrow")
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def test_groups_that_can_go_alone_but_not_together_are_named() -> None:
    with pytest.raises(UnsupportedError, match=r"Units of a, b can be cut alone but not together.*too narrow"):
        ig.shrink(Wide(), torch.ones(2, 4), sparsity=0.5)


def test_a_difference_beyond_the_tolerance_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
    x = torch.randn(8, 4)
    assert ig.shrink(model, x, sparsity=0.5).report.groups
    shrunk = ig.shrink(model, x, sparsity=0.5, tolerance=0.0)
    assert shrunk.report.error == 0.0
