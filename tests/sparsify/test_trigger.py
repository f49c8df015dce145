"""The trigger: what it judges, when it zeroes and revives, and what every method promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import OPTIMIZERS, STEPS, Run, assert_effective, loss_of, small_model
from isogrid.errors import PatternError, SparsifierError, TrainingError, UsageError
from isogrid.patterns import active_count
from isogrid.schedules import Cubic, Linear
from isogrid.sparsify import Sparsifier, Trigger


class TestPaced(TrainingMethodConformance):
    method = Trigger(sparsity=0.6, delta_t=3)


class TestPacedWithRevival(TrainingMethodConformance):
    method = Trigger(sparsity=0.6, delta_t=3, patience=1, revive=1.0)
    forgets = True


class TestAbsolute(TrainingMethodConformance):
    method = Trigger(sparsity=0.5, threshold=0.05, delta_t=2, patience=2)
    least = 0.05


class TestQuantile(TrainingMethodConformance):
    method = Trigger(sparsity=0.4, quantile=0.2, delta_t=3, patience=1)
    least = 0.2


class TestRows(TrainingMethodConformance):
    method = Trigger(sparsity=0.5, pattern="row", delta_t=3, patience=1)
    least = 0.4


class Bare:
    """One layer whose gradient is whatever the test says: the loss is linear in the weight."""

    def __init__(self, method: Trigger, shape: tuple[int, int] = (1, 4), steps: int = 100, **options: Any) -> None:
        self.layer = nn.Linear(shape[1], shape[0], bias=False)
        self.layer.weight.data.fill_(1.0)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=1e-4)
        self.sparsifier = Sparsifier(self.layer, method, optimizer=self.optimizer, total_steps=steps, **options)

    def step(self, gradient: list[float]) -> list[bool]:
        """Take a step with that gradient; returns the mask."""
        (self.layer.weight * torch.tensor(gradient).reshape(self.layer.weight.shape)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.sparsifier.masks["weight"].flatten().tolist()

    @property
    def average(self) -> list[float]:
        return self.sparsifier.state.layers[0].buffers["average"].flatten().tolist()


def test_the_average_is_the_moving_average_of_the_gradients_size() -> None:
    bare = Bare(Trigger(sparsity=0.5, threshold=0.0, beta=0.75))
    wanted = torch.tensor([1.0, 2.0, 3.0, 4.0])
    bare.step([1.0, -2.0, 3.0, -4.0])
    for sign in (1, -1, 1):
        bare.step([sign * 2.0, sign * 1.0, 0.0, sign * 8.0])
        wanted = 0.75 * wanted + 0.25 * torch.tensor([2.0, 1.0, 0.0, 8.0])
        assert bare.average == pytest.approx(wanted.tolist())


def test_patience_counts_consecutive_checks_below_the_bound() -> None:
    bare = Bare(Trigger(sparsity=0.75, threshold=0.5, patience=3, beta=0.0, delta_t=2))
    small, large = [0.1, 9.0, 9.0, 9.0], [9.0] * 4
    # A check comes after every second step: small, small, interrupted, small, small, small.
    for gradient in (small, small, small, small, large, large, small, small, small, small, small):
        assert bare.step(gradient) == [True] * 4
    assert bare.step(small) == [False, True, True, True]


def test_gradients_between_checks_that_pull_the_average_up_save_a_weight() -> None:
    bare = Bare(Trigger(sparsity=0.75, threshold=0.5, patience=1, beta=0.9, delta_t=1))
    for _ in range(10):
        assert bare.step([1.0, 1.0, 1.0, 1.0]) == [True] * 4
    below = 0
    while bare.step([0.0, 1.0, 1.0, 1.0])[0]:
        below += 1
    assert 0.9 ** (below + 1) <= 0.5 < 0.9**below


def test_the_smallest_averages_go_first_and_the_cap_is_kept() -> None:
    bare = Bare(Trigger(sparsity=0.5, threshold=1.0, patience=1, beta=0.0, delta_t=1))
    assert bare.step([0.4, 0.1, 0.3, 0.2]) == [True, False, True, False]
    assert bare.step([0.0, 0.0, 0.0, 0.0]) == [True, False, True, False]


def test_the_quantile_is_of_the_active_averages() -> None:
    bare = Bare(Trigger(sparsity=0.9, quantile=0.25, patience=1, beta=0.0, delta_t=1), shape=(1, 8))
    gradient = [float(i) for i in range(1, 9)]
    assert bare.step(gradient).count(False) == 2  # quantile 0.25 of 1..8 is 2.75
    assert bare.step(gradient).count(False) == 4  # of 3..8 it is 4.25
    assert bare.step(gradient) == [False] * 5 + [True] * 3 or bare.step(gradient).count(False) >= 5


def test_a_paced_trigger_lets_twice_as_many_pass_as_are_due() -> None:
    method = Trigger(sparsity=0.5, patience=1, beta=0.0, delta_t=1, schedule=Linear())
    bare = Bare(method, shape=(1, 100), steps=100)
    gradient = torch.arange(1.0, 101.0).tolist()
    for step in range(1, 101):
        held = bare.step(gradient)
        assert held.count(True) >= active_count(100, 0.005 * step) - 1
    assert held == [False] * 50 + [True] * 50


def test_revival_brings_a_weight_back_at_zero_and_starts_its_patience_anew() -> None:
    method = Trigger(sparsity=0.5, threshold=0.5, patience=1, beta=0.0, delta_t=1, revive=2.0)
    bare = Bare(method)
    assert bare.step([0.1, 1.0, 1.0, 1.0]) == [False, True, True, True]
    assert bare.step([1.9, 1.0, 1.0, 1.0]) == [False, True, True, True]
    assert bare.step([2.1, 1.0, 1.0, 1.0]) == [True, True, True, True]
    assert bare.layer.weight[0, 0] == 0
    assert bare.sparsifier.state.layers[0].buffers["patience"][0, 0] == 0
    bare.step([2.1, 1.0, 1.0, 1.0])
    assert bare.layer.weight[0, 0] != 0


def test_without_revival_nothing_comes_back() -> None:
    bare = Bare(Trigger(sparsity=0.5, threshold=0.5, patience=1, beta=0.0, delta_t=1))
    bare.step([0.1, 1.0, 1.0, 1.0])
    for _ in range(5):
        assert bare.step([99.0, 1.0, 1.0, 1.0]) == [False, True, True, True]


def test_revival_ends_with_the_ramp() -> None:
    method = Trigger(sparsity=0.5, threshold=0.5, patience=1, beta=0.0, delta_t=1, revive=2.0, schedule=Cubic(end=0.5))
    bare = Bare(method, steps=8)
    for _ in range(4):
        bare.step([0.1, 1.0, 1.0, 1.0])
    for _ in range(4):
        assert bare.step([99.0, 1.0, 1.0, 1.0]) == [False, True, True, True]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("revive", [None, 3.0])
def test_gradients_are_judged_unscaled_under_a_gradient_scaler(fused: bool, revive: float | None) -> None:
    def averages(scaler: torch.amp.GradScaler | None) -> torch.Tensor:
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, fused=fused)
        masks = {"0.weight": torch.ones(16, 12) > 0, "2.weight": torch.ones(4, 16) > 0}
        masks["0.weight"][::2] = False
        sparsifier = Sparsifier(
            model, Trigger(sparsity=0.9, revive=revive, delta_t=50), optimizer=optimizer, total_steps=100, masks=masks,
            scaler=scaler,
        )  # fmt: skip
        for step in range(4):
            loss = loss_of(model, step) / 2
            for part in (loss, loss):  # two halves: accumulated
                (part if scaler is None else scaler.scale(part)).backward(retain_graph=True)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad()
        return sparsifier.state.layers[0].buffers["average"]

    scaled = averages(torch.amp.GradScaler("cpu", init_scale=2.0**10))
    plain = averages(None)
    assert torch.allclose(scaled, plain, rtol=1e-4, atol=1e-7)
    assert bool(plain[::2].any()) == (revive is not None)


@pytest.mark.parametrize("to_none", [True, False])
def test_a_batch_that_the_scaler_skips_is_forgotten(to_none: bool) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    masks = {"0.weight": torch.ones(16, 12) > 0, "2.weight": torch.ones(4, 16) > 0}
    masks["0.weight"][::2] = False
    sparsifier = Sparsifier(
        model, Trigger(sparsity=0.9, revive=3.0), optimizer=optimizer, total_steps=100, masks=masks, scaler=scaler
    )
    for step, factor in enumerate((1.0, float("inf"), 1.0)):
        scaler.scale(loss_of(model, step) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=to_none)
    assert sparsifier.state.step == 2
    assert bool(torch.isfinite(sparsifier.state.layers[0].buffers["average"]).all())


def test_a_layer_that_has_had_no_gradient_is_not_judged() -> None:
    model = small_model()
    model[0].weight.requires_grad_(False)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    method = Trigger(sparsity=0.9, threshold=1e9, patience=1, delta_t=1)
    sparsifier = Sparsifier(model, method, optimizer=optimizer, total_steps=STEPS)
    for step in range(10):
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert bool(sparsifier.masks["0.weight"].all())
    assert not sparsifier.masks["2.weight"].any()
    model[0].weight.requires_grad_(True)  # set free: judged from now on, and its pruned gradients are held at zero
    for step in range(10, 20):
        loss_of(model, step).backward()
        optimizer.step()
        assert_effective(_Held(sparsifier))  # type: ignore[arg-type]
        optimizer.zero_grad()
    assert 0 < sparsifier.masks["0.weight"].sum() < 192


class _Held:
    def __init__(self, sparsifier: Sparsifier) -> None:
        self.sparsifier, self.state = sparsifier, sparsifier.state


def test_a_paced_trigger_reaches_its_cap_even_so() -> None:
    model = small_model()
    model[2].weight.requires_grad_(False)
    run = Run(Trigger(sparsity=0.9), model=model).finish()
    assert run.state.active == active_count(WEIGHTS, 0.9)
    assert int(run.sparsifier.masks["0.weight"].sum()) == 0 or run.sparsifier.masks["2.weight"].all()


@pytest.mark.parametrize("allocation", ["uniform", "erk"])
def test_an_allocation_cannot_make_it_zero_what_has_not_settled(allocation: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    method = Trigger(sparsity=0.5, threshold=0.5, patience=1, beta=0.0, delta_t=1, allocation=allocation)
    sparsifier = Sparsifier(model, method, optimizer=optimizer, total_steps=20)
    for _ in range(5):
        (0.1 * model[0].weight.sum() + 9.0 * model[1].weight.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert bool(sparsifier.masks["1.weight"].all())
    assert not sparsifier.masks["0.weight"].all()


def test_a_row_goes_only_when_all_of_it_has_settled() -> None:
    method = Trigger(sparsity=0.5, pattern="row", threshold=0.5, patience=1, beta=0.0, delta_t=1)
    bare = Bare(method, shape=(4, 2))
    held = bare.step([0.1, 9.0, 0.1, 0.1, 9.0, 0.1, 9.0, 9.0])
    assert held == [True, True, False, False, True, True, True, True]


@pytest.mark.parametrize("pattern", ["2:4", "fan_in"])
def test_patterns_with_equal_shares_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match=r"Trigger cannot hold pattern .* accepted are unstructured, block, row"):
        Run(Trigger(sparsity=0.5, pattern=pattern))


def test_gradients_that_are_not_finite_are_reported() -> None:
    bare = Bare(Trigger(sparsity=0.5))
    bare.step([1.0] * 4)
    with pytest.raises(TrainingError, match="gradient of weight is not finite at step 1"):
        bare.step([float("nan"), 1.0, 1.0, 1.0])


def test_a_closure_is_refused_for_it_hides_the_gradients() -> None:
    bare = Bare(Trigger(sparsity=0.5))

    def closure() -> torch.Tensor:
        loss = bare.layer.weight.sum()
        loss.backward()
        return loss

    with pytest.raises(SparsifierError, match="Trigger looks at gradients before the weights move, and a closure"):
        bare.optimizer.step(closure)


def test_modes() -> None:
    assert Trigger(sparsity=0.5).mode == "paced"
    assert Trigger(sparsity=0.5, threshold=0.0).mode == "absolute"
    assert Trigger(sparsity=0.5, quantile=0.5).mode == "quantile"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 0.1, "quantile": 0.1}, "both a threshold and a quantile"),
        ({"threshold": -1.0}, "threshold=-1.0"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"quantile": 1.5}, "quantile=1.5"),
        ({"beta": -0.1}, "beta=-0.1"),
        ({"patience": 0}, "patience=0; accepted is a whole number >= 1"),
        ({"revive": 0.0}, "revive=0.0"),
        ({"revive": 1.0, "pattern": "row"}, "single weights come back"),
        ({"sparsity": None}, "needs a sparsity"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Trigger(**{"sparsity": 0.5, **options})
