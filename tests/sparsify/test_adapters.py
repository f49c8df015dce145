"""The masked update of low-rank adapters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conformance.training import loss_of, small_model
from isogrid.errors import UsageError
from isogrid.sparsify import OneShot, mask_delta, masked_delta, prune


class Adapted(nn.Module):
    """The least LoRA there can be: a frozen base and two matrices."""

    def __init__(self, base: nn.Linear, rank: int = 3) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / rank)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.register_buffer("mask", base.weight != 0, persistent=False)

    def delta(self) -> Tensor:
        return masked_delta(self.down, self.up, self.get_buffer("mask"), scale=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.base.weight + self.delta(), self.base.bias)


def test_training_sees_what_merging_gives() -> None:
    model = small_model()
    prune(model, OneShot(sparsity=0.75))
    pruned = {name: p == 0 for name, p in model.named_parameters() if p.dim() == 2}
    for index in (0, 2):
        model[index] = Adapted(model[index])  # type: ignore[arg-type]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    before = loss_of(model, 0).item()
    for step in range(40):
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    x = torch.randn(5, 12)
    answer = model(x)
    assert loss_of(model, 0).item() < 0.9 * before
    for index in (0, 2):
        adapted: Adapted = model[index]  # type: ignore[assignment]
        adapted.base.weight.data += adapted.delta().detach()
        model[index] = adapted.base
    assert torch.equal(model(x), answer)
    for name, zeros in pruned.items():
        assert torch.equal(model.get_parameter(name) == 0, zeros)


def test_it_is_the_masked_product_and_its_gradients() -> None:
    down, up = torch.randn(2, 6, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    mask = torch.rand(4, 6) < 0.5
    assert torch.equal(masked_delta(down, up, mask, scale=3.0), 3.0 * (up @ down) * mask)
    inputs = (down.requires_grad_(), up.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: masked_delta(a, b, mask, scale=3.0), inputs)


def test_pruned_places_are_zero_whatever_the_adapter_holds() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    delta = masked_delta(torch.tensor([[1.0, torch.inf]]), torch.tensor([[1.0], [2.0]]), mask)
    assert delta.tolist() == [[1.0, 0.0], [0.0, torch.inf]]
    assert mask_delta(torch.full((2, 2), torch.nan, dtype=torch.bfloat16), ~mask).dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("down", "up", "mask"),
    [
        ((3, 4), (5, 2), torch.ones(5, 4, dtype=torch.bool)),
        ((2, 4), (5, 2), torch.ones(4, 5, dtype=torch.bool)),
        ((2, 4), (5, 2), torch.ones(5, 4)),
        ((2, 4, 1), (5, 2), torch.ones(5, 4, dtype=torch.bool)),
    ],
)
def test_what_does_not_fit_is_refused(down: tuple[int, ...], up: tuple[int, ...], mask: Tensor) -> None:
    with pytest.raises(UsageError, match=r"masked_delta\(\) got down .* accepted are \[rank, inputs\]"):
        masked_delta(torch.ones(down), torch.ones(up), mask)
