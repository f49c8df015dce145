from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import isogrid as ig
from isogrid.distillation import Distiller, distillation_loss
from isogrid.errors import UnsupportedError, UsageError


def network(width: int = 6) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 3)
    )


X, Y = torch.randn(8, 1, 5, 5, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3


def loss_of(model: nn.Module, distiller: Distiller) -> torch.Tensor:
    answer = model(X)
    return distiller(nn.functional.cross_entropy(answer, Y), answer, X)


def test_answers_are_mixed_by_the_formula() -> None:
    model, teacher = network(), network()
    distiller = Distiller(model, teacher, weight=0.3, temperature=2.0)
    answer, wanted = model(X), teacher(X)
    soft = 4 * torch.sum(wanted.div(2).softmax(1) * (wanted.div(2).log_softmax(1) - answer.div(2).log_softmax(1))) / 8
    expected = 0.7 * nn.functional.cross_entropy(answer, Y) + 0.3 * soft
    assert torch.allclose(loss_of(model, distiller), expected, atol=1e-6)
    squared = Distiller(model, teacher, weight=1.0, measure="mse")
    assert torch.allclose(loss_of(model, squared), (answer - wanted).square().mean(), atol=1e-6)


def test_sequences_count_every_place_once() -> None:
    answer, wanted = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    flat = distillation_loss(answer.flatten(0, 1), wanted.flatten(0, 1), 3.0)
    assert torch.allclose(distillation_loss(answer, wanted, 3.0), flat)


def test_features_of_equal_width_are_compared_as_they_are() -> None:
    model, teacher = network(), network()
    with Distiller(model, teacher, weight=0.0, features={"0": "0", "1": "1"}, feature_weight=0.5, example=X) as one:
        assert not list(one.parameters())
        parts = []
        for depth in (1, 2):
            own, other = model[:depth](X), teacher[:depth](X)
            parts.append(0.5 * (own - other).square().mean() / other.square().mean())
        expected = nn.functional.cross_entropy(model(X), Y) + sum(parts)
        assert torch.allclose(loss_of(model, one), expected, atol=1e-6)


def test_features_of_another_width_get_a_learned_map_that_trains() -> None:
    model, teacher = network(4), network(6)
    distiller = Distiller(model, teacher, features=["0", "1"], example=X)
    maps = list(distiller.parameters())
    assert [tuple(one.shape) for one in maps] == [(6, 4), (6, 4)]
    optimizer = torch.optim.SGD([*model.parameters(), *maps], lr=0.05)
    before = loss_of(model, distiller).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss_of(model, distiller).backward()
        optimizer.step()
    assert loss_of(model, distiller).item() < 0.8 * before


def test_the_teacher_is_left_as_it_is_and_gets_no_gradients() -> None:
    model, teacher = network(), network()
    before = copy.deepcopy(teacher.state_dict())
    with Distiller(model, teacher, features=["0"], example=X) as distiller:
        model.train()
        loss_of(model, distiller).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert model.training
    assert not any(module._forward_hooks for one in (model, teacher) for module in one.modules())


def test_a_teacher_in_training_mode_answers_in_eval_mode_and_stays_in_its_own() -> None:
    inner = network()
    inner[1].eval()
    teacher = nn.Sequential(nn.Dropout(0.5), inner)
    modes = [module.training for module in teacher.modules()]
    model = network()
    distiller = Distiller(model, teacher, weight=1.0, features={"0": "1.0"}, example=X)
    assert [module.training for module in teacher.modules()] == modes
    assert loss_of(model, distiller).item() == loss_of(model, distiller).item()
    assert [module.training for module in teacher.modules()] == modes
    alone = nn.Sequential(nn.Dropout(0.5), network())
    copied = Distiller(alone.eval(), weight=1.0)
    copied.teacher.train()  # as the module that holds it does
    assert loss_of(alone, copied).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("width", [4, 6])
@pytest.mark.parametrize("samples", [1, 4])
def test_features_of_another_batch_are_refused(width: int, samples: int) -> None:
    model = network(width)
    distiller = Distiller(model, network(6), features=["0"], example=X)
    answer = model(X)
    model(X[:samples])
    with pytest.raises(UsageError, match=rf"features of 0 have shape \({samples}, {width}, 5, 5\).*same inputs"):
        distiller(torch.tensor(1.0), answer, X)
    assert loss_of(model, distiller).isfinite()


@pytest.mark.parametrize("width", [4, 8])
def test_features_with_other_channels_than_the_example_are_refused(width: int) -> None:
    model, teacher = nn.Sequential(nn.Identity()), nn.Sequential(nn.Linear(4, width, bias=False))
    distiller = Distiller(model, teacher, features=["0"], example=torch.ones(2, 4))
    teacher[0].weight = nn.Parameter(torch.ones(6, 4))
    teacher.append(nn.Linear(6, 4))
    x = torch.ones(2, 4)
    with pytest.raises(UsageError, match=r"shape \(2, 4\) and the teacher's of 0 \(2, 6\).*as in the example"):
        distiller(torch.tensor(1.0), model(x), x)


@pytest.mark.parametrize(
    ("own", "other", "x"),
    [
        (nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(3, 16, 3, padding=1), torch.randn(4, 3, 6)),
        (nn.Conv2d(3, 8, 3), nn.Conv2d(3, 16, 3), torch.randn(4, 3, 6, 6)),
        (nn.Linear(5, 8), nn.Linear(5, 16), torch.randn(4, 6, 5)),
        (nn.Linear(5, 8), nn.Linear(5, 16), torch.randn(4, 7, 6, 5)),
    ],
)
def test_the_axis_in_which_features_differ_is_mapped(own: nn.Module, other: nn.Module, x: torch.Tensor) -> None:
    model, teacher = nn.Sequential(own, nn.Flatten(), nn.LazyLinear(3)), nn.Sequential(other, nn.Flatten())
    teacher.append(nn.LazyLinear(3))
    model(x), teacher(x)
    distiller = Distiller(model, teacher, features="0", example=x, weight=0.0)
    (weight,) = distiller.parameters()
    here, there = own(x), other(x)
    (axis,) = [place for place in range(x.dim()) if here.shape[place] != there.shape[place]]
    mapped = torch.tensordot(here, weight, dims=([axis], [1])).movedim(-1, axis)
    expected = (mapped - there).square().mean() / there.square().mean()
    assert torch.allclose(distiller(torch.tensor(0.0), model(x), x), expected, rtol=1e-4)


def test_without_a_teacher_the_model_as_it_is_now_teaches() -> None:
    model = network()
    distiller = Distiller(model, weight=1.0)
    assert loss_of(model, distiller).item() == pytest.approx(0, abs=1e-6)
    ig.prune(model, ig.OneShot(sparsity=0.8))
    assert loss_of(model, distiller).item() > 1e-3


def test_answers_with_logits_and_named_inputs() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, pixels: torch.Tensor) -> Any:
            return SimpleNamespace(logits=self.inner(pixels))

    model = Named()
    distiller = Distiller(model, weight=1.0, features=["inner.0"], example=X)
    assert distiller(torch.tensor(5.0), model(pixels=X), pixels=X).item() == pytest.approx(0, abs=1e-5)
    model(X)
    with pytest.raises(UsageError, match="type str; accepted is a tensor"):
        distiller(torch.tensor(5.0), "answer", X)


def test_a_call_without_a_run_of_the_student_is_refused() -> None:
    model = network()
    distiller = Distiller(model, network(), features=["0"], example=X)
    loss_of(model, distiller)
    with pytest.raises(UsageError, match="features of 0 in the student were not seen"):
        distiller(torch.tensor(1.0), torch.zeros(8, 3), X)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight": 1.5}, "weight=1.5; accepted is a number from 0 to 1"),
        ({"weight": float("nan")}, "weight=nan"),
        ({"temperature": 0.0}, "temperature=0.0; accepted is a finite number > 0"),
        ({"feature_weight": -1.0}, "feature_weight=-1.0"),
        ({"measure": "cosine"}, "measure of distillation 'cosine'"),
        ({"features": ["0"]}, "no example"),
        ({"features": ["00"], "example": X}, "module of the student '00'"),
        ({"features": {"0": "9"}, "example": X}, "module of the teacher '9'"),
        ({"features": {"0": "2"}, "example": X}, "differ in their channels"),
        (
            {"features": ["0"], "example": X[:, 0, 0]},
            "The student fails on the example .*; accepted is what its",
        ),
        ({"features": ["0"], "example": 3}, "The student fails on the example"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_hook(options: dict[str, Any], said: str) -> None:
    model, teacher = network(), network()
    with pytest.raises(UsageError, match=said):
        Distiller(model, teacher, **options)
    assert not any(module._forward_hooks for one in (model, teacher) for module in one.modules())


def test_the_model_itself_is_no_teacher_and_a_distiller_is_not_copied() -> None:
    model = network()
    with pytest.raises(UsageError, match="its own teacher"):
        Distiller(model, model)
    with pytest.raises(UnsupportedError, match="cannot be copied"):
        pickle.dumps(Distiller(model))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight": "x"}, "weight='x'; accepted is a number from 0 to 1"),
        ({"weight": True}, "weight=True"),
        ({"temperature": None}, "temperature=None"),
        ({"feature_weight": "x"}, "feature_weight='x'"),
        ({"teacher": 3}, "teacher=3; accepted is a module"),
        ({"features": 3}, "features=3; accepted is the name of a module, a sequence of names, or a mapping"),
        ({"features": [0]}, r"features=\[0\]; accepted is the name"),
        ({"features": [["0"]]}, r"features=\[\['0'\]\]; accepted"),
        ({"features": {"0": 0}}, "features={'0': 0}; accepted"),
    ],
)
def test_values_of_another_type_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Distiller(nn.Linear(4, 3), **options)


@pytest.mark.parametrize("measure", ["kl", "mse"])
@pytest.mark.parametrize("outputs", [1, 5])
def test_a_teacher_whose_answers_have_another_shape_is_refused(measure: Any, outputs: int) -> None:
    x = torch.ones(2, 4)
    model = nn.Linear(4, 3)
    with (
        Distiller(model, nn.Linear(4, outputs), measure=measure) as distiller,
        pytest.raises(UsageError, match=rf"shape \(2, 3\) and the teacher's \(2, {outputs}\)"),
    ):
        distiller(torch.zeros(()), model(x), x)


def test_one_module_may_be_named_alone() -> None:
    model = nn.Sequential(OrderedDict(first=nn.Linear(4, 8), last=nn.Linear(8, 3)))
    x = torch.ones(2, 4)
    with Distiller(model, features="first", example=x) as distiller:
        assert float(distiller(torch.zeros(()), model(x), x).detach()) == pytest.approx(0.0, abs=1e-6)
