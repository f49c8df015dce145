"""Activation sparsity and dead units, measured on a model that is left as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from isogrid.activations import SparseReLU, TopK
from isogrid.activity import ACTIVATIONS, measure
from isogrid.errors import DataError, UsageError


class Passing(nn.Module):
    """Hands its input to a ReLU, so that a test can say what the activation sees."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)  # type: ignore[no-any-return]


def counted(x: Tensor) -> tuple[int, int, int, int]:
    (row,) = measure(Passing(), [x]).activations
    return row.values, row.zeros, row.units, row.dead


# -- counts ------------------------------------------------------------------------------------------------------------


def test_exact_zeros_are_counted_over_batches() -> None:
    found = measure(Passing(), [torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([[2.0, 3.0, -0.0], [-1.0, 1.0, 1.0]])])
    (row,) = found.activations
    assert (row.name, row.kind) == ("act", "ReLU")
    assert (row.values, row.zeros, row.sparsity) == (9, 4, 4 / 9)
    assert (found.batches, found.sparsity) == (2, 4 / 9)


def test_small_outputs_and_nan_are_no_zeros() -> None:
    assert counted(torch.tensor([[1e-40, float("nan"), float("inf")]]))[1] == 0


def test_a_unit_is_dead_when_it_was_zero_in_every_batch() -> None:
    batches = [torch.tensor([[1.0, -1.0, -1.0]]), torch.tensor([[-1.0, -1.0, 5.0]])]
    (row,) = measure(Passing(), batches).activations
    assert (row.units, row.dead) == (3, 1)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6,), 0), ((5, 6), 1), ((2, 4, 6), 2), ((2, 6, 3, 3), 1), ((2, 6, 2, 2, 2), 1)],
)
def test_units_lie_along_features_of_matrices_sequences_and_images(shape: tuple[int, ...], axis: int) -> None:
    x = torch.ones(shape)
    x.select(axis, 1).fill_(-1)
    x.select(axis, 4).fill_(-1)
    values, zeros, units, dead = counted(x)
    assert (values, units, dead) == (x.numel(), 6, 2)
    assert zeros == 2 * x.numel() // 6


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=3, max_size=3), min_size=1, max_size=12))
def test_batches_may_be_cut_anywhere(rows: list[list[float]]) -> None:
    x = torch.tensor(rows)
    whole = measure(Passing(), [x]).activations
    assert measure(Passing(), list(x.split(1))).activations == whole
    assert measure(Passing(), list(x.split(5))).activations == whole
    assert whole[0].zeros == int((x <= 0).sum())
    assert whole[0].dead == int((x <= 0).all(dim=0).sum())


def test_every_activation_module_is_watched_in_the_order_in_which_it_ran() -> None:
    model = nn.Sequential(nn.Linear(4, 8), SparseReLU(0.5), nn.Sequential(nn.Linear(8, 8), TopK(2)), nn.Tanh())
    found = measure(model, [torch.randn(3, 4)])
    assert [(row.name, row.kind) for row in found.activations] == [
        ("1", "SparseReLU"),
        ("2.1", "TopK"),
        ("3", "Tanh"),
    ]
    assert found.activations[1].zeros >= 3 * 6
    assert all(issubclass(kind, nn.Module) for kind in ACTIVATIONS)


def test_an_activation_used_twice_is_one_row() -> None:
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act)
    (row,) = measure(model, [torch.randn(2, 4)]).activations
    assert (row.name, row.values) == ("1", 16)


def test_modules_can_be_named() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.zero_()
    found = measure(model, [torch.randn(3, 4)], modules=["2", "0"])
    assert [(row.name, row.sparsity) for row in found.activations] == [("0", 0.0), ("2", 1.0)]
    assert measure(model, [torch.randn(3, 4)], modules="2").activations[0].dead == 2


def test_it_is_plain_data_and_text() -> None:
    found = measure(Passing(), [torch.tensor([[1.0, -1.0]])])
    assert json.loads(json.dumps(found.to_json())) == {
        "sparsity": 0.5,
        "batches": 1,
        "activations": [
            {"name": "act", "kind": "ReLU", "sparsity": 0.5, "values": 2, "zeros": 1, "units": 2, "dead": 1}
        ],
    }
    assert str(found) == "50.0 % of the activations are zero\nact: 50.0 % zero, 1 of 2 units dead"


# -- batches -----------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Needs two arguments, which a mapping or a sequence must bring."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.act(left + right)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "batch",
    [
        {"right": torch.ones(2, 3), "left": -torch.ones(2, 3)},
        [-torch.ones(2, 3), torch.ones(2, 3)],
        (-torch.ones(2, 3), torch.ones(2, 3)),
    ],
)
def test_mappings_and_sequences_are_arguments(batch: Any) -> None:
    assert measure(Two(), [batch]).sparsity == 1.0


@pytest.mark.parametrize("labels", [torch.tensor([1, 0]), torch.tensor([True, False])])
def test_labels_of_a_classification_loader_are_left_out(labels: Tensor) -> None:
    assert measure(Passing(), [(-torch.ones(2, 3), labels)]).sparsity == 1.0
    assert measure(Passing(), [[-torch.ones(2, 3)]]).sparsity == 1.0


def test_a_loader_is_read_as_far_as_asked() -> None:
    read = []

    def batches() -> Iterator[Tensor]:
        for index in range(100):
            read.append(index)
            yield torch.ones(1, 2)

    assert measure(Passing(), batches(), max_batches=3).batches == 3
    assert len(read) == 3


# -- the model is left as it was ---------------------------------------------------------------------------------------


def model_in_mixed_modes() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), SparseReLU(target_sparsity=0.5), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    return model


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_modes_statistics_and_hooks_are_as_before() -> None:
    model = model_in_mixed_modes()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = measure(model, [torch.randn(4, 3)] * 2)
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert hooks(model) == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert found.activations[0].kind == "SparseReLU"


@pytest.mark.parametrize(
    "batches",
    [
        [torch.randn(4, 3), torch.randn(4, 7)],  # the model fails
        [torch.randn(4, 3), KeyboardInterrupt],  # the loader fails
    ],
)
def test_also_when_it_fails(batches: list[Any]) -> None:
    def loader() -> Iterator[Tensor]:
        for batch in batches:
            if not isinstance(batch, Tensor):
                raise batch
            yield batch

    model = model_in_mixed_modes()
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        measure(model, loader())
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert hooks(model) == 0
    assert torch.is_grad_enabled()


def test_no_gradients_are_recorded_and_random_numbers_are_left_alone() -> None:
    seen = []
    model = Passing()
    model.act.register_forward_hook(lambda _, __, output: seen.append(output.requires_grad))
    state = torch.get_rng_state()
    measure(model, [torch.ones(1, 2, requires_grad=True)])
    assert seen == [False]
    assert torch.equal(state, torch.get_rng_state())
    assert hooks(model) == 1  # the user's own


def test_wrappers_are_seen_through() -> None:
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    x = torch.randn(3, 4)
    compiled = torch.compile(model, backend="eager")
    averaged = torch.optim.swa_utils.AveragedModel(model)
    wanted = measure(model, [x])
    assert measure(compiled, [x]) == wanted
    assert measure(averaged, [x]) == wanted


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_model_without_activation_modules_is_refused() -> None:
    with pytest.raises(UsageError, match="no activation module in this model; name the modules"):
        measure(nn.Linear(2, 2), [torch.ones(1, 2)])


def test_a_module_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="the module 'relu', which the model lacks; it has act"):
        measure(Passing(), [torch.ones(1, 2)], modules=["relu"])


def test_a_named_module_that_returns_no_tensor_is_refused() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 2)
            self.spare = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0]  # type: ignore[no-any-return]

    for name in ("lstm", "spare"):
        with pytest.raises(UsageError, match=f"no floating tensor come out of {name}"):
            measure(Holder(), [torch.ones(3, 1, 2)], modules=[name])


def test_no_batch_is_refused() -> None:
    with pytest.raises(DataError, match="got no batch"):
        measure(Passing(), [])


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "2"])
def test_limits_are_whole_numbers(limit: Any) -> None:
    with pytest.raises(UsageError, match="max_batches="):
        measure(Passing(), [torch.ones(1, 2)], max_batches=limit)


def test_batches_that_differ_in_features_are_refused() -> None:
    model = Passing()
    with pytest.raises(UsageError, match="act puts out 3 units in one batch and 2 in another"):
        measure(model, [torch.ones(1, 2), torch.ones(1, 3)])
    assert hooks(model) == 0


def test_two_inputs_of_whole_numbers_are_no_input_and_labels() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return self.relu((user - item).float())

    batch = (torch.tensor([1, 2, 3]), torch.tensor([3, 2, 1]))
    assert measure(Pair(), [batch], labels=False).sparsity == pytest.approx(2 / 3)
    with pytest.raises(TypeError):
        measure(Pair(), [batch])
