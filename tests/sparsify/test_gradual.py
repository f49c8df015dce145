"""Gradual: its own ramp, and what every method promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from conformance.methods import WEIGHTS, TrainingMethodConformance
from conformance.training import OPTIMIZERS, STEPS, Run, batch, loss_of, small_model
from isogrid.errors import PatternError, TargetError, TrainingError, UsageError
from isogrid.patterns import NofM, active_count
from isogrid.schedules import Constant, Cubic, OneShot, Schedule
from isogrid.scores import SNIP, Fisher, Gradient, Magnitude, Random, Taylor
from isogrid.sparsify import Aware, Gradual, Method, Regularized, Sparsifier, Trigger, methods, prune
from isogrid.sparsify import OneShot as PruneOnce


class TestGradual(TrainingMethodConformance):
    method = Gradual(sparsity=0.8, delta_t=3)


class TestGradualByGradient(TrainingMethodConformance):
    method = Gradual(sparsity=0.6, score=Gradient(), delta_t=4)


class TestGradualByTaylor(TrainingMethodConformance):
    method = Gradual(sparsity=0.6, score=Taylor(), delta_t=4)


class TestGradualByFisher(TrainingMethodConformance):
    method = Gradual(sparsity=0.6, score=Fisher(), delta_t=10)

    def run(self, optimizer: str = "sgd_momentum", **options: Any) -> Run:
        return super().run(optimizer, data=[batch(100, 4)], loss=squared_error, **options)


class TestGradualAtRandom(TrainingMethodConformance):
    method = Gradual(sparsity=0.7, score=Random(), delta_t=5, allocation="erk")


class TestGradualInAPattern(TrainingMethodConformance):
    method = Gradual(pattern="1:4", delta_t=3)


class TestGradualInBlocks(TrainingMethodConformance):
    method = Gradual(sparsity=0.5, pattern="block:2x2", allocation="uniform")


def squared_error(answer: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.mse_loss(answer, pair[1])


def all_active() -> dict[str, torch.Tensor]:
    return {"0.weight": torch.ones(16, 12, dtype=torch.bool), "2.weight": torch.ones(4, 16, dtype=torch.bool)}


def test_sparsity_follows_equation_1_of_zhu_and_gupta() -> None:
    run = Run(Gradual(sparsity=0.9, schedule=Cubic(end=1.0), delta_t=4))
    for step in run.steps():
        due = step - step % 4
        wanted = 0.9 + (0.0 - 0.9) * (1 - due / STEPS) ** 3
        assert run.state.active == active_count(WEIGHTS, wanted), step


def test_the_ramp_starts_at_the_adopted_sparsity() -> None:
    masks = all_active()
    masks["0.weight"][:, :6] = False
    run = Run(Gradual(sparsity=0.9, schedule=Cubic(), delta_t=4), masks=masks)
    initial = 96 / WEIGHTS
    for step in run.steps():
        due = step - step % 4
        wanted = 0.9 + (initial - 0.9) * (1 - due / STEPS) ** 3
        assert run.state.active == active_count(WEIGHTS, wanted), step


def test_it_never_gets_denser_than_the_adopted_masks() -> None:
    masks = all_active()
    masks["0.weight"][1:] = False
    run = Run(Gradual(sparsity=0.5), masks=masks).finish()
    assert torch.equal(run.sparsifier.masks["0.weight"], masks["0.weight"])


def test_it_cuts_the_smallest_magnitudes_of_all_layers_together() -> None:
    run = Run(Gradual(sparsity=0.5, schedule=OneShot(at=0.5)), "sgd")
    for _ in run.steps(until=STEPS // 2 - 1):
        pass
    assert run.sparsifier.sparsity == 0
    run.step()
    kept = [layer.weight[layer.mask].abs().min() for layer in run.state.layers]
    twin = Run(Gradual(sparsity=0.0), "sgd")
    for _ in twin.steps(until=STEPS // 2):
        pass
    magnitudes = torch.cat([layer.weight.abs().flatten() for layer in twin.state.layers])
    assert float(min(kept)) == float(magnitudes.sort().values[WEIGHTS // 2])


def test_the_ramp_closes_at_its_end_whatever_the_interval() -> None:
    run = Run(Gradual(sparsity=0.9, schedule=Cubic(end=0.5), delta_t=7))
    reached = [WEIGHTS] + [run.state.active for _ in run.steps()]
    assert reached[19] > reached[20] == active_count(WEIGHTS, 0.9)
    assert len(set(reached[20:])) == 1


@pytest.mark.parametrize("schedule", [Constant(), OneShot(at=0.0), Cubic(end=0.0)])
@pytest.mark.parametrize("kind", [Gradual, Trigger, Regularized])
def test_a_ramp_without_a_length_prunes_after_the_first_step(kind: Any, schedule: Schedule) -> None:
    run = Run(kind(sparsity=0.5, schedule=schedule))
    run.step()
    assert run.state.active == active_count(WEIGHTS, 0.5)
    kept = run.sparsifier.masks
    run.finish()
    assert all(torch.equal(kept[name], mask) for name, mask in run.sparsifier.masks.items())


def test_a_trigger_whose_ramp_has_no_length_goes_by_the_first_gradient() -> None:
    model = small_model()
    run = Run(Trigger(sparsity=0.5, schedule=Constant()), model=model)
    loss_of(model, 0).backward()
    sizes = torch.cat([layer.target.parameter.grad.abs().flatten() for layer in run.state.layers])
    run.optimizer.step()
    kept = torch.cat([layer.mask.flatten() for layer in run.state.layers])
    assert float(sizes[kept].min()) >= float(sizes[~kept].max())


def test_scores_by_the_gradient_need_layers_that_are_trained() -> None:
    model = small_model()
    model[0].weight.requires_grad_(False)
    with pytest.raises(TargetError, match=r"Score snip looks at the gradient of 0\.weight, which is frozen"):
        Run(Gradual(sparsity=0.5, score="snip"), model=model)


def test_a_layer_that_the_batch_did_not_reach_has_no_gradient_and_goes_first() -> None:
    model = small_model()
    model.append(nn.Linear(4, 4))
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    method = Gradual(sparsity=0.25, score="snip", delta_t=1, schedule=Constant())
    sparsifier = Sparsifier(model, method, optimizer=optimizer, total_steps=2)
    loss_of(model[:3], 0).backward()
    optimizer.step()
    assert not sparsifier.masks["3.weight"].any()
    assert sparsifier.sparsity == 0.25


def test_weights_that_are_not_finite_are_reported_and_not_ranked() -> None:
    run = Run(Gradual(sparsity=0.5, delta_t=1))
    run.step()
    run.model[0].weight.data[3, 3] = float("inf")
    with pytest.raises(TrainingError, match=r"0\.weight are not finite at step 2"):
        run.step()


def test_a_pattern_that_does_not_fit_is_refused_before_anything_is_touched() -> None:
    model = small_model()
    before = model[0].weight.clone()
    with pytest.raises(PatternError, match=r"0\.weight does not fit the pattern; leave it out with ignore="):
        Run(Gradual(pattern=NofM(2, 5)), model=model)
    assert torch.equal(model[0].weight, before)
    assert not model[0].weight._post_accumulate_grad_hooks


def test_gradients_are_only_asked_for_when_a_cut_by_gradient_is_due() -> None:
    run = Run(Gradual(sparsity=0.5, score=Gradient(), delta_t=10))
    asked = [run.sparsifier.method.gradients(run.state)]
    asked += [run.sparsifier.method.gradients(run.state) for _ in run.steps()]
    assert [step for step, wanted in enumerate(asked) if wanted != "none"] == [9, 19, 29]
    assert Gradual(sparsity=0.5, score=Magnitude()).gradients(run.state) == "none"


def test_scores_by_the_gradient_take_that_of_the_step_and_the_weights_before_it() -> None:
    run = Run(Gradual(sparsity=0.5, score=SNIP(), schedule=OneShot(at=0.5)), "sgd")
    for _ in run.steps(until=STEPS // 2 - 1):
        pass
    weights = [layer.target.parameter for layer in run.state.layers]
    gradients = torch.autograd.grad(loss_of(run.model, run.state.step), weights)
    sensitivity = torch.cat([(w * g).abs().flatten().detach() for w, g in zip(weights, gradients, strict=True)])
    run.step()
    held = torch.cat([layer.mask.flatten() for layer in run.state.layers])
    assert float(sensitivity[held].min()) >= float(sensitivity[~held].max())


def test_scores_that_look_at_more_run_the_model_on_the_data_at_each_pruning() -> None:
    data = [batch(100, 4), batch(101, 4)]
    method = Gradual(sparsity=0.5, score=Fisher(), schedule=OneShot(at=0.5))
    assert method.needs_data
    assert not Gradual(sparsity=0.5, score=SNIP()).needs_data
    run = Run(method, "sgd", data=data, loss=squared_error)
    twin = Run(Gradual(sparsity=0.0), "sgd")
    for _ in run.steps(until=STEPS // 2):
        twin.step()
    wanted = prune(twin.model, PruneOnce(sparsity=0.5, score=Fisher()), data=data, loss=squared_error).masks
    assert all(torch.equal(mask, wanted[name]) for name, mask in run.sparsifier.masks.items())
    with pytest.raises(UsageError, match="Gradual looks at data before training starts and got none"):
        Run(method)


@pytest.mark.parametrize("kind", [Gradual, Trigger, Aware])
@pytest.mark.parametrize("delta_t", [0, -3, 2.5, True])
def test_an_interval_is_a_whole_number_of_steps(kind: type[Method], delta_t: object) -> None:
    with pytest.raises(UsageError, match=f"{kind.__name__} got delta_t={delta_t!r}; accepted is a whole number"):
        kind(sparsity=0.5, delta_t=delta_t)  # type: ignore[call-arg]


def test_every_registered_method_has_a_line_of_its_own() -> None:
    lines = [entry.summary for entry in methods().values()]
    assert len(set(lines)) == len(lines)
    assert all(lines)
