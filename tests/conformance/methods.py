"""What a method promises, in training and after it."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import re
from typing import Any, ClassVar

import pytest
import torch

from conformance.training import STEPS, Run, assert_effective, assert_same_bits, batch, small_model
from conformance.values import ValueConformance
from isogrid import allocation, patterns, penalties, schedules, scores, sparsify
from isogrid.errors import UsageError
from isogrid.masks import count_zeros
from isogrid.patterns import active_count
from isogrid.rules.method import AnyMethod
from isogrid.sparsify import Method, Usage, methods

WEIGHTS = 12 * 16 + 16 * 4
_NAMES = {
    name: value
    for module in (allocation, patterns, penalties, schedules, scores, sparsify)
    for name, value in vars(module).items()
    if isinstance(value, type)
}


class MethodConformance(ValueConformance):
    """Set `method`, aimed at a sparsity that it can be aimed away from."""

    method: ClassVar[Method]
    parse = None

    @property
    def value(self) -> Method:
        return self.method

    def test_its_repr_is_the_code_that_makes_it(self) -> None:
        kind = type(self.method)
        # A schedule and a method may have the same name.
        parts = {type(value).__name__: type(value) for value in vars(self.method).values()}
        assert eval(repr(self.method), {**_NAMES, **parts, kind.__name__: kind}) == self.method

    def test_it_has_a_name(self) -> None:
        assert type(self.method) in [registered.cls for registered in methods().values()]

    def test_its_docstring_tells_the_formula_or_its_source_and_every_option(self) -> None:
        written = " ".join(kind.__doc__ or "" for kind in type(self.method).__mro__ if issubclass(kind, AnyMethod))
        own = type(self.method).__doc__ or ""
        assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi:10\.|sponsor|``[^`]*<-[^`]*``", own)
        for field in dataclasses.fields(self.method):
            assert re.search(rf"\b{field.name}: ", written), field.name

    def test_it_says_how_the_main_job_uses_it(self) -> None:
        assert isinstance(self.method.usage, Usage)
        assert any("usage" in vars(kind) for kind in type(self.method).__mro__)

    @pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.3])
    def test_it_can_be_aimed_at_another_sparsity(self, sparsity: float) -> None:
        aimed = self.method.at(sparsity)
        assert type(aimed) is type(self.method)
        assert aimed.final_sparsity in ((sparsity,) if sparsity else (0.0, None))
        for field in dataclasses.fields(self.method):
            if field.name != "sparsity" and field.compare:
                assert getattr(aimed, field.name) == getattr(self.method, field.name)

    @pytest.mark.parametrize("sparsity", [1.0, -0.1, math.nan, math.inf, True, "0.5"])
    def test_no_other_sparsity_is_accepted(self, sparsity: Any) -> None:
        with pytest.raises(UsageError, match="sparsity="):
            self.method.at(sparsity)


class TrainingMethodConformance(MethodConformance):
    """Set `method` and how near it comes to its sparsity.

    Attributes:
        least: the least sparsity that it may end with in the training of `conformance.training`; None for exactly as
            many weights as its sparsity says.
        overshoot: how far above its sparsity it may be at any time, beside one weight of rounding.
        makes_zeros: whether zeros that no mask holds may come (a proximal step).
        forgets: whether a pruned weight may come back.
    """

    least: ClassVar[float | None] = None
    overshoot: ClassVar[float] = 0.0
    makes_zeros: ClassVar[bool] = False
    forgets: ClassVar[bool] = False
    optimizers: ClassVar[tuple[str, ...]] = ("adam", "sgd_momentum")

    def run(self, optimizer: str = "sgd_momentum", **options: Any) -> Run:
        return Run(self.method, optimizer, **options)

    def test_it_belongs_into_training(self) -> None:
        assert self.method.usage in (Usage.CLIMB, Usage.RESTART)
        with pytest.raises(UsageError, match="works after training"):
            sparsify.prune(small_model(), self.method)

    @pytest.mark.parametrize("optimizer", ["adamw_fused", "sgd_momentum"])
    def test_every_step_leaves_exact_zeros_and_never_too_many(self, optimizer: str) -> None:
        run = self.run(optimizer)
        goal = self.method.final_sparsity
        before = run.sparsifier.masks
        for _ in run.steps():
            assert_effective(run)
            held = run.sparsifier.masks
            if not self.forgets:
                assert all(not bool((held[name] & ~before[name]).any()) for name in held)
            before = held
            if goal is not None:
                # Zeros that no mask holds: of a proximal step, or active ones that have just come back.
                loose = self.makes_zeros or self.forgets
                reached = run.state.mask_sparsity if loose else run.sparsifier.sparsity
                assert reached <= goal + self.overshoot + 1 / WEIGHTS
        counts = run.sparsifier.finalize()
        assert counts == count_zeros(run.model)
        if goal is not None and self.least is None and not self.makes_zeros:
            assert round(counts["sparsity"] * WEIGHTS) == WEIGHTS - active_count(WEIGHTS, goal)
        elif goal is not None or self.least is not None:
            least = self.least if self.least is not None else 1 - active_count(WEIGHTS, goal or 0.0) / WEIGHTS
            assert counts["sparsity"] >= least - 1e-12
            assert goal is None or counts["sparsity"] <= goal + self.overshoot + 1 / WEIGHTS

    def test_the_same_seed_gives_the_same_bits(self) -> None:
        assert_same_bits(self.run("adam").finish().bits(), self.run("adam").finish().bits())

    @pytest.mark.parametrize("index", [0, 1])
    def test_a_resumed_training_is_the_undisturbed_one(self, index: int) -> None:
        optimizer = self.optimizers[index]
        undisturbed = self.run(optimizer)
        saved = {}
        for step in undisturbed.steps():
            if step in (1, STEPS // 3, STEPS - 5):
                file = io.BytesIO()
                torch.save(undisturbed.save(), file)
                saved[step] = file
            if step == STEPS // 4:
                undisturbed.sparsifier.observe(0.4)
        for step, file in saved.items():
            file.seek(0)
            resumed = self.run(optimizer, model=small_model(seed=99)).load(torch.load(file, weights_only=True))
            assert resumed.state.step == step
            for reached in resumed.steps():
                if reached == STEPS // 4:
                    resumed.sparsifier.observe(0.4)
            assert_same_bits(resumed.bits(), undisturbed.bits())
        assert_same_bits(
            {"done": torch.tensor(list(resumed.sparsifier.finalize().values()))},
            {"done": torch.tensor(list(undisturbed.sparsifier.finalize().values()))},
        )

    def test_the_order_of_loading_does_not_matter(self) -> None:
        run = self.run()
        for _ in run.steps(until=STEPS // 2):
            pass
        saved = copy.deepcopy(run.save())
        other = self.run(model=small_model(seed=99))
        other.sparsifier.load_state_dict(saved["sparsifier"])
        other.optimizer.load_state_dict(saved["optimizer"])
        other.model.load_state_dict(saved["model"])
        assert_same_bits(other.finish().bits(), run.finish().bits())

    def test_zeros_that_are_adopted_stay(self) -> None:
        model = small_model()
        start = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() == 2}
        start["0.weight"][:, ::4] = False
        run = self.run(model=model, masks=start)
        assert run.state.mask_sparsity >= 48 / WEIGHTS
        for _ in run.steps():
            assert_effective(run)
            if not self.forgets:
                assert not bool(run.sparsifier.masks["0.weight"][:, ::4].any())

    def test_finalize_leaves_a_plain_module_and_a_plain_optimiser(self) -> None:
        run = self.run()
        names = [name for name, _ in small_model().named_parameters()]
        assert [name for name, _ in run.model.named_parameters()] == names
        run.finish().sparsifier.finalize()
        assert [name for name, _ in run.model.named_parameters()] == names
        assert run.model.state_dict().keys() == small_model().state_dict().keys()
        assert not any(p._post_accumulate_grad_hooks for p in run.model.parameters())
        assert not run.optimizer._optimizer_step_pre_hooks
        assert not run.optimizer._optimizer_step_post_hooks

    def test_telemetry_is_plain_numbers(self) -> None:
        run = self.run()
        for _ in run.steps(until=5):
            shown = run.sparsifier.telemetry()
            assert shown["sparsity"] == run.sparsifier.sparsity
            assert all(isinstance(value, float) and math.isfinite(value) for value in shown.values())


class CalibratedMethodConformance(MethodConformance):
    """Set `method`, which works after training and looks at data; its pattern must fit the weights of `small_model`."""

    def pruned(self, model: torch.nn.Module | None = None, method: Method | None = None) -> Any:
        model = small_model() if model is None else model
        data = [batch(step) for step in range(4)]
        return model, sparsify.prune(model, method or self.method, data=data)

    def test_it_belongs_after_training_and_needs_data(self) -> None:
        assert self.method.usage is Usage.AFTER
        assert self.method.needs_data
        with pytest.raises(UsageError, match=r"works after training; call isogrid\.prune"):
            Run(self.method)
        with pytest.raises(UsageError, match="looks at data and got none"):
            sparsify.prune(small_model(), self.method)

    def test_it_reaches_its_sparsity_in_every_layer(self) -> None:
        model, report = self.pruned()
        for name, mask in report.masks.items():
            weight = model.get_parameter(name)
            grid = self.method.pattern.grid(weight.shape)  # type: ignore[attr-defined]
            most = active_count(weight.numel(), self.method.final_sparsity or 0.0)
            assert most - grid.step < int(mask.sum()) <= most
            assert torch.equal(mask, weight != 0)
            assert self.method.pattern.conforms(mask.numpy())  # type: ignore[attr-defined]

    def test_the_same_data_gives_the_same_bits(self) -> None:
        assert_same_bits(self.pruned()[0].state_dict(), self.pruned()[0].state_dict())

    def test_a_sparsity_of_zero_changes_nothing(self) -> None:
        assert_same_bits(self.pruned(method=self.method.at(0.0))[0].state_dict(), small_model().state_dict())

    def test_zeros_that_are_there_stay_and_count(self) -> None:
        model = small_model()
        model[0].weight.data[:, ::4] = 0
        model[2].weight.data[::4] = 0
        zeros = {name: p == 0 for name, p in model.named_parameters() if p.dim() == 2}
        _, report = self.pruned(model)
        for name, mask in report.masks.items():
            assert not bool((mask & zeros[name]).any())
            assert int((~mask).sum()) >= int(zeros[name].sum())
        assert report.sparsity >= self.method.final_sparsity - 1e-12  # type: ignore[operator]

    def test_it_leaves_a_plain_module_in_the_mode_it_was_in(self) -> None:
        model = small_model()
        model[1].eval()
        self.pruned(model)
        assert [module.training for module in model.modules()] == [True, True, False, True]
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
