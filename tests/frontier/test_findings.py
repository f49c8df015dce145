"""What the report shows of the two models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from isogrid.frontier import findings
from isogrid.tasks import ClassificationTask


@pytest.fixture
def pair(tiny: ClassificationTask) -> tuple[nn.Module, Any]:
    """A dense model, and a copy of which unit 3 is dead and input 5 is cut off."""
    torch.manual_seed(0)
    dense = tiny.model().eval()
    sparse: Any = copy.deepcopy(dense)
    with torch.no_grad():
        sparse[0].weight[3] = 0
        sparse[0].weight[:, 5] = 0
    return dense, sparse


def test_layers_are_counted(tiny: ClassificationTask, pair: tuple[nn.Module, Any]) -> None:
    dense, sparse = pair
    first, last = findings.layer_rows(tiny, dense, sparse)
    assert (first.name, first.shape, first.parameters) == ("0.weight", (16, 12), 192)
    assert first.nonzeros == 192 - 12 - 16 + 1
    assert first.sparsity == 1 - first.nonzeros / 192
    assert (first.dead_units, first.units) == (1, 16)
    assert (last.name, last.sparsity, last.dead_units) == ("4.weight", 0, 0)


def test_histograms_count_the_weights_that_are_left(tiny: ClassificationTask, pair: tuple[nn.Module, Any]) -> None:
    first = findings.layer_rows(tiny, *pair)[0]
    assert list(first.dense_histogram.edges) == list(first.sparse_histogram.edges)
    assert sum(first.dense_histogram.counts) == 192
    assert sum(first.sparse_histogram.counts) == first.nonzeros
    most = float(pair[0][0].weight.detach().abs().max())  # type: ignore[index,union-attr,operator]
    assert first.dense_histogram.edges[-1] == pytest.approx(most)


def test_a_layer_of_zeros_has_an_empty_histogram(tiny: ClassificationTask, pair: tuple[nn.Module, Any]) -> None:
    _, sparse = pair
    torch.nn.init.zeros_(sparse[0].weight)
    first = findings.layer_rows(tiny, sparse, sparse)[0]
    assert sum(first.sparse_histogram.counts) == 0
    assert first.dead_units == 16


def test_inputs_are_counted_where_the_model_begins_with_them(
    tiny: ClassificationTask, pair: tuple[nn.Module, Any]
) -> None:
    use = findings.input_use(tiny, pair[1])
    assert use is not None
    assert use.shape is None
    assert list(use.counts) == [15, 15, 15, 15, 15, 0, 15, 15, 15, 15, 15, 15]
    assert findings.input_use(tiny, nn.Sequential(nn.Conv1d(1, 2, 3), nn.Linear(12, 2))) is None
    assert findings.input_use(tiny, nn.Linear(7, 2)) is None
    assert findings.input_use(tiny, nn.ReLU()) is None


def test_activations_are_those_of_both_models(tiny: ClassificationTask, pair: tuple[nn.Module, Any]) -> None:
    rows = findings.activation_rows(tiny, *pair)
    assert [row.layer for row in rows] == ["2"]
    with torch.no_grad():
        expected = [float((model[:3](tiny.example()[0]) == 0).float().mean()) for model in pair]  # type: ignore[operator,index]
    assert [rows[0].dense_sparsity, rows[0].sparse_sparsity] == pytest.approx(expected)


def test_activations_of_a_model_of_two_whole_numbers(tiny: ClassificationTask) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
            return self.relu((user - item).float())

    task: Any = copy.copy(tiny)
    task.example = lambda: (torch.tensor([1, 2]), torch.tensor([3, 1]))
    assert [row.sparse_sparsity for row in findings.activation_rows(task, Pair(), Pair())] == [0.5]
