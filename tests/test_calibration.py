from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from conformance.training import small_model
from isogrid.errors import DataError, UsageError
from isogrid.sparsify import Calibration, Method, SparseState, Sparsifier, Usage, prune


class Answer:
    loss = torch.tensor(3.0)


class Named(nn.Module):
    def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
        return scale * x


X, Y = torch.randn(5, 12), torch.tensor([0, 1, 2, 3, 0])


def test_batches_are_tensors_pairs_mappings_or_what_forward_takes() -> None:
    model = small_model()
    assert torch.equal(Calibration([X]).answer(model, X), model(X))
    assert torch.equal(Calibration([X]).answer(model, (X, Y)), model(X))
    assert torch.equal(Calibration([X]).answer(Named(), {"x": X, "scale": 2.0}), 2 * X)
    assert torch.equal(Calibration([1], forward=lambda m, batch: m(batch * X)).answer(model, 2), model(2 * X))
    with pytest.raises(UsageError, match="type int; accepted"):
        Calibration([1]).answer(model, 1)


def test_the_loss_is_the_answers_own_or_the_cross_entropy_or_what_is_given() -> None:
    model = small_model()
    data = Calibration([(X, Y)])
    assert torch.equal(data.loss_of(model, (X, Y)), nn.functional.cross_entropy(model(X), Y))
    assert float(Calibration([X], forward=lambda *_: Answer()).loss_of(model, X)) == 3.0
    assert float(Calibration([X], loss=lambda *_: torch.tensor(7.0)).loss_of(model, X)) == 7.0
    with pytest.raises(UsageError, match="loss=") as problem:
        Calibration([X]).loss_of(model, X)
    assert "not known" in str(problem.value)


def test_data_that_can_be_passed_once_or_is_empty_is_refused() -> None:
    with pytest.raises(UsageError, match="starts anew"):
        Calibration(iter([X]))
    with pytest.raises(UsageError, match="type int"):
        Calibration(3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no batch"):
        list(Calibration([]))


@dataclass(frozen=True)
class Curious(Method):
    """Looks at the data."""

    usage: ClassVar[Usage] = Usage.AFTER

    @property
    def needs_data(self) -> bool:
        return True

    def begin(self, state: SparseState) -> None:
        assert state.calibration is not None
        assert state.model is not None
        answers = [state.calibration.answer(state.model, batch).detach().sum() for batch in state.calibration]
        seen.append(float(sum(answers)))


@dataclass(frozen=True)
class CuriousInTraining(Curious):
    """The same before training."""

    usage: ClassVar[Usage] = Usage.RESTART


seen: list[Any] = []


def test_a_method_sees_the_data_and_says_so_where_there_are_none() -> None:
    model = small_model()
    prune(model, Curious(), data=[X], forward=lambda m, batch: 2 * m(batch))
    assert seen.pop() == pytest.approx(2 * model(X).sum().item())
    with pytest.raises(UsageError, match="Curious looks at data and got none"):
        prune(model, Curious())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Sparsifier(model, CuriousInTraining(), optimizer=optimizer, total_steps=1, data=[X]).detach()
    assert seen.pop() == pytest.approx(model(X).sum().item())
    with pytest.raises(UsageError, match="CuriousInTraining looks at data before training"):
        Sparsifier(model, CuriousInTraining(), optimizer=optimizer, total_steps=1)
