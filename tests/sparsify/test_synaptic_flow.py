"""Synaptic flow: against the product of matrices, and the law of its conservation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from conformance.values import seeded
from isogrid.errors import UsageError
from isogrid.masks import find_targets
from isogrid.sparsify import Calibration
from isogrid.sparsify.synaptic_flow import synaptic_flow


def flow_of(model: nn.Module, batches: Any, **options: Any) -> list[Tensor]:
    return synaptic_flow(model, [target.name for target in find_targets(model)], Calibration(batches, **options))


def saliencies(model: nn.Module, batches: Any, **options: Any) -> list[Tensor]:
    targets = find_targets(model)
    flows = flow_of(model, batches, **options)
    return [t.parameter.detach().abs() * flow for t, flow in zip(targets, flows, strict=True)]


def test_it_is_the_derivative_of_the_product_of_absolute_matrices() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    weights = [layer.weight.detach().double().abs().requires_grad_() for layer in (model[0], model[2], model[4])]
    paths = torch.ones(3).double() @ weights[2] @ weights[1] @ weights[0] @ torch.ones(4).double()
    wanted = torch.autograd.grad(paths, weights)
    for found, other in zip(flow_of(model, [torch.randn(1, 4)]), wanted, strict=True):
        torch.testing.assert_close(found, other)


def convolutional(seed: int) -> nn.Sequential:
    """Biases, batch normalisation that has seen data, pooling and a layer that is half pruned."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(5, 4, 2), nn.ReLU(),
        nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip
    model[:2](3 * torch.randn(8, 2, 6, 6) + 1)
    model[8].weight.data *= torch.rand(7, 16) < 0.5
    return model


@seeded
@given(st.integers(0, 1000))
def test_the_saliencies_of_every_layer_have_the_same_sum(seed: int) -> None:
    # Tanaka et al. 2020, theorem 1, for cuts between layers: as much flows into a layer as out of it.
    sums = torch.stack([saliency.sum() for saliency in saliencies(convolutional(seed), [torch.randn(3, 2, 6, 6)])])
    torch.testing.assert_close(sums, sums[:1].expand(4))
    assert sums[0] > 0


def test_only_the_shape_of_the_first_batch_counts() -> None:
    model = convolutional(0)
    one, other = torch.randn(3, 2, 6, 6), torch.zeros(3, 2, 6, 6)
    labels = torch.tensor([0, 1, 2])
    for batches in ([other], [(one, labels)], [other, torch.randn(1)]):
        found = flow_of(model, batches)
        assert all(torch.equal(a, b) for a, b in zip(found, flow_of(model, [one]), strict=True))


def test_the_model_is_left_as_it_was() -> None:
    model = convolutional(0)
    model[8].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    assert flow_of(model, [torch.randn(3, 2, 6, 6)])[2].any()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_many_layers_stay_within_the_range_of_numbers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(60)))
    for layer in model:
        layer.weight.data *= 20
    total = torch.stack([saliency.sum() for saliency in saliencies(model, [torch.ones(1, 64)])])
    assert total[0] > 1e39  # beyond single precision
    torch.testing.assert_close(total, total[:1].expand(60))


class Tokens(nn.Module):
    """Takes a mapping with token ids and answers with logits beside something else."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, scale: Tensor) -> Any:
        answer = type("Answer", (), {})()
        answer.logits = self.head(self.embed(ids) * scale)
        answer.hidden = 1e6 * answer.logits
        return answer


def test_token_ids_stay_and_the_logits_are_the_answer() -> None:
    torch.manual_seed(0)
    model, ids = Tokens(), torch.tensor([[1, 5, 5]])
    flow = flow_of(model, [{"ids": ids, "scale": torch.tensor(7.0)}])[0]
    wanted = model.embed.weight.detach().double().abs()[ids[0]].sum(dim=0).expand(3, 4)
    torch.testing.assert_close(flow, wanted)


def test_an_answer_without_weights_is_refused() -> None:
    with pytest.raises(UsageError, match="answer to a batch of ones is of type Tensor and does not follow"):
        flow_of(nn.Linear(2, 2), [torch.ones(1, 2)], forward=lambda *_: torch.ones(1))
