"""The step size that a proximal step must take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from isogrid.errors import UnsupportedError
from isogrid.sparsify.step_size import StepSizes

GRADIENTS = np.array([[0.5, -2.0, 0.0], [1.0, 1.0, 1.0], [-3.0, 0.1, 0.0]])


def after(optimizer: Callable[[Any], torch.optim.Optimizer]) -> tuple[StepSizes, torch.nn.Parameter]:
    """Three steps with `GRADIENTS`."""
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    built = optimizer([weight])
    for gradient in GRADIENTS:
        weight.grad = torch.tensor(gradient)
        built.step()
    return StepSizes(built), weight


@pytest.mark.parametrize(
    ("optimizer", "wanted"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0.1),
        (lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1), momentum=0.75), 0.4),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.75, nesterov=True), 0.4),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, dampening=0.25), 0.15),
        (lambda p: torch.optim.SGD(p, lr=0.1, dampening=0.25), 0.1),
    ],
)
def test_sgd_adds_up_to_the_rate_over_what_momentum_forgets(optimizer: Any, wanted: float) -> None:
    sizes, weight = after(optimizer)
    assert sizes.of(weight) == pytest.approx(wanted)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}, {"amsgrad": True}])
def test_adam_divides_by_the_corrected_root_of_squares(kind: Any, options: dict[str, Any]) -> None:
    sizes, weight = after(lambda p: kind(p, lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.0, **options))
    squares, largest = np.zeros(3), np.zeros(3)
    for gradient in GRADIENTS:
        squares = 0.9 * squares + 0.1 * gradient**2
        largest = np.maximum(largest, squares)
    used = largest if "amsgrad" in options else squares
    wanted = 0.01 / (np.sqrt(used / (1 - 0.9**3)) + 1e-3)
    np.testing.assert_allclose(sizes.of(weight), wanted, rtol=1e-6)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_rmsprop(centered: bool, momentum: float) -> None:
    sizes, weight = after(
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-3, momentum=momentum, centered=centered)
    )
    squares, mean = np.zeros(3), np.zeros(3)
    for gradient in GRADIENTS:
        squares = 0.9 * squares + 0.1 * gradient**2
        mean = 0.9 * mean + 0.1 * gradient
    spread = squares - mean**2 if centered else squares
    np.testing.assert_allclose(sizes.of(weight), 0.01 / (1 - momentum) / (np.sqrt(spread) + 1e-3), rtol=1e-6)


def test_adagrad() -> None:
    sizes, weight = after(lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.5, eps=1e-3))
    total = (GRADIENTS**2).sum(axis=0)
    np.testing.assert_allclose(sizes.of(weight), 0.1 / (1 + 2 * 0.5) / (np.sqrt(total) + 1e-3), rtol=1e-6)


def test_the_optimisers_own_numbers_are_left_alone() -> None:
    _, weight = after(lambda p: torch.optim.Adam(p, lr=0.01))
    optimizer = torch.optim.Adam([weight], lr=0.01)
    weight.grad = torch.ones(3, dtype=torch.float64)
    optimizer.step()
    before = {name: value.clone() for name, value in optimizer.state[weight].items()}
    StepSizes(optimizer).of(weight)
    assert all(torch.equal(before[name], value) for name, value in optimizer.state[weight].items())


def test_each_group_has_its_own_rate() -> None:
    one, two, apart = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    for weight in (one, two, apart):
        weight.grad = torch.ones(2)
    optimizer = torch.optim.SGD([{"params": [one], "lr": 0.5}, {"params": [two], "momentum": 0.5}], lr=0.1)
    sizes = StepSizes(optimizer)
    assert (sizes.of(one), sizes.of(two), sizes.of(apart)) == (0.5, 0.2, 0.0)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_a_parameter_that_took_no_step_has_none(kind: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    assert StepSizes(kind([weight], lr=0.1)).of(weight) == 0.0


def test_what_is_not_known_is_refused_before_the_first_step() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(UnsupportedError, match="maximize=True"):
        StepSizes(torch.optim.SGD([weight], lr=0.1, maximize=True)).of(weight)
    with pytest.raises(
        UnsupportedError, match="step size of Adamax; accepted are SGD, Adam, AdamW, RMSprop and Adagrad"
    ):
        StepSizes(torch.optim.Adamax([weight])).of(weight)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_a_weight_that_no_gradient_has_reached_goes_by_the_mean_of_its_tensor(kind: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = kind([weight], lr=0.01, eps=1e-3)
    weight.grad = torch.tensor([0.5, 0.0, 1.5], dtype=torch.float64)
    optimizer.step()
    first, untouched, last = StepSizes(optimizer).of(weight).tolist()  # type: ignore[union-attr]
    assert 1 / untouched == pytest.approx((1 / first + 1 / last) / 2)
    weight.grad = torch.zeros(3, dtype=torch.float64)
    optimizer = kind([weight], lr=0.01)
    optimizer.step()
    assert StepSizes(optimizer).of(weight) == 0.0
