"""IMP: cycles, what is rewound and what is not, the learning rate's clock, and what every method promises."""

from __future__ import annotations

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import STEPS, Run, assert_same_bits, small_model
from conformance.values import seeded
from isogrid.errors import TrainingError, UsageError
from isogrid.patterns import active_count
from isogrid.sparsify import IMP, SparseState, parse_method


class TestIMP(TrainingMethodConformance):
    method = IMP(sparsity=0.8, rounds=3, rewind_to=0.2)


class TestIMPToTheInitialWeights(TrainingMethodConformance):
    method = IMP(pattern="1:4", rounds=2, rewind="initial")


class TestIMPOfTheLearningRate(TrainingMethodConformance):
    method = IMP(sparsity=0.9, rewind="learning_rate", allocation="uniform", pattern="block:2x2")
    least, overshoot = 0.9, 8 / WEIGHTS


def with_norm(seed: int = 0) -> nn.Sequential:
    """The small model with a normalisation, whose statistics and affine parameters are no targets."""
    first, second, third = small_model(seed)
    return nn.Sequential(first, nn.BatchNorm1d(16), second, third)


def content(run: Run) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return copy.deepcopy(dict(run.model.state_dict()))


# -- cycles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "steps", "wanted"),
    [
        (IMP(sparsity=0.9, rounds=4, rewind="initial"), 100, [0, 20, 40, 60, 80]),
        (IMP(sparsity=0.9, rounds=1, rewind_to=0.5), 300, [0, 200]),
        (IMP(sparsity=0.9, rounds=2, rewind_to=0.25, rewind="learning_rate"), 250, [0, 100, 175]),
        (IMP(sparsity=0.9, rounds=4), 2, [0, 1, 1, 1, 2]),
    ],
)
def test_later_cycles_are_shorter_by_what_is_not_repeated(method: IMP, steps: int, wanted: list[int]) -> None:
    assert method.cycles(steps) == wanted


def test_each_pruning_leaves_the_same_share_of_what_was_left() -> None:
    run = Run(IMP(sparsity=0.8, rounds=4, rewind="initial"), steps=50)
    reached = [run.state.active for _ in run.steps()]
    for step, active in enumerate(reached, start=1):
        due = min(step // 10, 4)
        assert active == active_count(WEIGHTS, 0.8 if due == 4 else 1 - 0.2 ** (due / 4))


def test_pruning_starts_at_the_adopted_sparsity() -> None:
    masks = {"0.weight": torch.ones(16, 12, dtype=torch.bool), "2.weight": torch.ones(4, 16, dtype=torch.bool)}
    masks["0.weight"][:, :8] = False
    run = Run(IMP(sparsity=0.875, rounds=2, rewind="initial"), masks=masks, steps=30)
    reached = [run.state.active for _ in run.steps()]
    assert [reached[i] for i in (8, 9, 19)] == [128, 64, 32]
    sparser = Run(IMP(sparsity=0.25, rounds=2, rewind="initial"), masks=masks, steps=30).finish()
    assert sparser.state.active == 128


def test_it_cuts_the_smallest_trained_magnitudes() -> None:
    run = Run(IMP(sparsity=0.75, rounds=1, rewind="initial"), "sgd")
    twin = Run(IMP(sparsity=0.0, rounds=1, rewind="learning_rate", rewind_to=0), "sgd")
    for each in (run, twin):
        for _ in each.steps(until=STEPS // 2):
            pass
    magnitudes = torch.cat([layer.weight.flatten().abs() for layer in twin.state.layers])
    kept = torch.zeros(WEIGHTS, dtype=torch.bool)
    kept[magnitudes.topk(WEIGHTS // 4).indices] = True
    assert torch.equal(torch.cat([layer.mask.flatten() for layer in run.state.layers]), kept)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("rewind", ["weights", "initial", "learning_rate"])
def test_few_steps_still_end_at_the_sparsity(steps: int, rewind: str) -> None:
    run = Run(IMP(sparsity=0.8, rounds=4, rewind=rewind), steps=steps).finish()
    assert run.sparsifier.finalize()["sparsity"] == 1 - active_count(WEIGHTS, 0.8) / WEIGHTS


# -- rewinding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd_momentum", "adam", "adagrad"])
@pytest.mark.parametrize(("options", "point"), [({"rewind_to": 0.25}, 4), ({"rewind": "initial"}, 0)])
def test_everything_goes_back_to_the_rewinding_point(optimizer: str, options: dict[str, Any], point: int) -> None:
    run = Run(IMP(sparsity=0.75, rounds=2, **options), optimizer, model=with_norm())
    starts = run.sparsifier.method.cycles(STEPS)[1:]  # type: ignore[attr-defined]
    saved = content(run)
    assert int(starts[0] * options.get("rewind_to", 0)) == point
    for step in run.steps():
        if step == point:
            saved = content(run)
        now = content(run)
        if step not in starts:
            assert any(not torch.equal(now[name], saved[name]) for name in saved) == (step != point)
            continue
        for name, mask in run.sparsifier.masks.items():
            saved[name] = saved[name] * mask
        assert_same_bits(now, saved)
        first = 0.1 if optimizer == "adagrad" else 0.0
        for layer in run.state.layers:
            for moment in run.state.optimizer_state(layer):
                assert bool((moment == first * layer.mask).all())
    assert not run.state.tensors


def test_parameters_stay_the_same_objects() -> None:
    run = Run(IMP(sparsity=0.75, rounds=2), model=with_norm())
    before = [id(parameter) for parameter in run.model.parameters()]
    run.finish()
    assert [id(parameter) for parameter in run.model.parameters()] == before


def test_rewinding_the_learning_rate_keeps_the_weights() -> None:
    run = Run(IMP(sparsity=0.75, rounds=1, rewind="learning_rate", rewind_to=0), "sgd", model=with_norm())
    twin = Run(IMP(sparsity=0.0, rounds=1, rewind="learning_rate", rewind_to=0), "sgd", model=with_norm())
    for each in (run, twin):
        for _ in each.steps(until=STEPS // 2):
            assert not each.state.tensors
    wanted = content(twin)
    for name, mask in run.sparsifier.masks.items():
        wanted[name] = wanted[name] * mask
    assert_same_bits(content(run), wanted)


@pytest.mark.parametrize("rewind", ["weights", "initial"])
def test_a_training_resumes_before_and_after_the_point_and_between_two_cycles(rewind: str) -> None:
    method = IMP(sparsity=0.75, rounds=2, rewind=rewind, rewind_to=0.25)
    run = Run(method, "adam", model=with_norm())
    files = {}
    for step in run.steps():
        if step in (2, 4, 5, 15, 16, 17, 28):
            files[step] = io.BytesIO()
            torch.save(run.save(), files[step])
    for file in files.values():
        file.seek(0)
        other = Run(method, "adam", model=with_norm(seed=99)).load(torch.load(file, weights_only=True))
        assert_same_bits(other.finish().bits(), run.bits())


# -- the learning rate's clock ---------------------------------------------------------------------------------------


def test_the_clock_goes_through_the_schedule_once_a_cycle() -> None:
    run = Run(IMP(sparsity=0.9, rounds=2, rewind_to=0.25), "sgd", steps=25)
    clock = [run.sparsifier.lr_step] + [run.sparsifier.lr_step for _ in run.steps()]
    first = [int(25 * i / 10) for i in range(10)]
    assert clock[:10] == first
    starts = run.sparsifier.method.cycles(25)  # type: ignore[attr-defined]
    assert starts == [0, 10, 18]
    assert clock[10] == clock[18] == int(25 * 0.25)
    assert clock[17] > clock[10]
    assert clock[25] == 25


@given(
    rounds=st.integers(1, 12), point=st.floats(0, 0.99), steps=st.integers(1, 120),
    rewind=st.sampled_from(["weights", "initial", "learning_rate"]),
)  # fmt: skip
@seeded
def test_the_clock_rises_within_a_cycle_and_stays_within_the_schedule(
    rounds: int, point: float, steps: int, rewind: str
) -> None:
    method = IMP(sparsity=0.5, rounds=rounds, rewind=rewind, rewind_to=point)
    state = SparseState([], total_steps=steps, seed=0)
    starts = method.cycles(steps)
    assert len(starts) == rounds + 1
    assert starts == sorted(starts)
    assert all(0 < start <= steps for start in starts[1:])
    clock = []
    for state.step in range(steps):
        clock.append(method.lr_step(state))
    assert all(0 <= now <= steps for now in clock)
    assert clock[0] == 0
    for step, (now, following) in enumerate(itertools.pairwise(clock)):
        if step + 1 in starts:
            rewound = 0 if rewind == "initial" else point
            assert following == int(rewound * steps + 1e-9)
        else:
            assert now <= following


def test_other_methods_follow_the_steps() -> None:
    run = Run(parse_method("gradual", sparsity=0.5))
    assert [run.sparsifier.lr_step for _ in run.steps(until=5)] == [1, 2, 3, 4, 5]


# -- the rest --------------------------------------------------------------------------------------------------------


def test_telemetry_tells_the_round() -> None:
    run = Run(IMP(sparsity=0.9, rounds=3, rewind="initial"))
    assert run.sparsifier.telemetry()["round"] == 0
    rounds = [run.sparsifier.telemetry()["round"] for _ in run.steps()]
    assert (rounds[8], rounds[9], rounds[19], rounds[-1]) == (0, 1, 2, 3)


def test_weights_that_are_not_finite_are_reported() -> None:
    run = Run(IMP(sparsity=0.5, rounds=39, rewind="initial"))
    run.model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"0\.weight are not finite at step 1"):
        run.step()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rounds": 0}, "IMP got rounds=0; accepted is a whole number >= 1"),
        ({"rounds": True}, "IMP got rounds=True"),
        ({"rewind": "nothing"}, "IMP got rewind='nothing'; accepted are 'weights', 'initial', 'learning_rate'"),
        ({"rewind_to": 1.0}, r"IMP got rewind_to=1\.0; accepted is a number from 0 up to, not including, 1"),
    ],
)
def test_options_that_are_not_accepted(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        IMP(sparsity=0.5, **options)


def test_it_has_a_name() -> None:
    assert parse_method("imp", sparsity=0.9, rounds=2, rewind="learning_rate") == IMP(
        0.9, rounds=2, rewind="learning_rate"
    )


class Caching(nn.Module):
    """A model with buffers that come, grow, and cannot be written to."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_model()
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("repeated", torch.ones(1).expand(3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x[0, :1].detach()])
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.full((2,), 7.0))
        return self.inner(x) * self.repeated[0]


def test_buffers_that_come_or_grow_do_not_end_the_training() -> None:
    run = Run(IMP(sparsity=0.5, rounds=1, rewind="initial"), model=Caching())
    for step in run.steps():
        if step == STEPS // 2:
            assert run.state.numbers["round"] == 1
            assert run.model.seen.tolist() == [0.0]
    assert run.model.late.tolist() == [7.0, 7.0]
    assert run.model.repeated.tolist() == [1.0] * 3
    assert run.sparsifier.finalize()["sparsity"] == 0.5
