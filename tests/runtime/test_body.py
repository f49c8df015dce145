"""A traced graph as a module of its own."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor, nn

from isogrid.runtime.body import Body
from isogrid.runtime.tracing import trace


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.scale = nn.Buffer(torch.rand(3))
        self.plain = torch.rand(3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(self.linear(x)) * self.scale + self.plain
        return y, torch.full_like(y, float("inf")).to(torch.float64)


def body_of(model: nn.Module) -> Body:
    return Body(trace(model.eval(), (torch.randn(2, 4),), {}).graph)


def test_it_computes_what_the_graph_does() -> None:
    model = Model()
    body, x = body_of(model), torch.randn(5, 4)
    for a, b in zip(body(x), model(x), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=0, atol=0)


def test_copies_and_pickles_compute_the_same() -> None:
    body, x = body_of(Model()), torch.randn(5, 4)
    for copied in (copy.deepcopy(body), pickle.loads(pickle.dumps(body))):
        assert torch.equal(copied(x)[0], body(x)[0])
        assert copied.state_dict().keys() == body.state_dict().keys()
        for tensor in copied.state_dict().values():
            tensor.zero_()
        assert not torch.equal(copied(x)[0], body(x)[0])


def test_its_tensors_are_its_own_and_ask_for_no_gradient() -> None:
    model = Model()
    body, x = body_of(model), torch.randn(5, 4)
    assert sorted(body.state_dict()) == ["linear.bias", "linear.weight", "norm.bias", "norm.weight", "plain", "scale"]
    before = body(x)[0]
    assert not before.requires_grad
    with torch.no_grad():
        for tensor in (*model.state_dict().values(), model.plain):
            tensor.zero_()
    assert torch.equal(body(x)[0], before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_tied_tensors_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    body, x = body_of(model), torch.randn(5, 4)
    with torch.no_grad():
        next(body.parameters()).zero_()
    names = [name for name, _ in body.named_parameters() if name.endswith("weight")]
    assert len(names) == 1
    expected = model[1].bias.detach().expand(5, 4)
    torch.testing.assert_close(body(x)[0], expected)
