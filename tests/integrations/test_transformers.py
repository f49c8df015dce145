"""The callback in the Hugging Face Trainer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from conformance.training import assert_same_bits
from integrations.tiny import COLLAPSE, TARGETS, Sentences, bits, model_for, options_for, tiny_bert, training_methods
from isogrid.errors import FormatError, SparsifierError, UnsupportedError, UsageError
from isogrid.integrations.transformers import STATE_FILE, SparsifierCallback
from isogrid.masks import count_zeros, find_targets
from isogrid.penalties import L1, L2
from isogrid.sparsify import Aware, Gradual, Method, Regularized, SparseState, Sparsifier, Static, Trigger

pytestmark = pytest.mark.filterwarnings(COLLAPSE)
STEPS = 12
METHODS = training_methods()


def trainer_of(
    folder: Path, callback: SparsifierCallback | None, model: nn.Module | None = None, **options: Any
) -> Trainer:
    settings: dict[str, Any] = {
        "max_steps": STEPS, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 64, "learning_rate": 5e-3,
        "save_strategy": "no", "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        **options,
    }  # fmt: skip
    kind = settings.pop("kind", Trainer)
    metrics = settings.pop("compute_metrics", None)
    return kind(
        model=tiny_bert() if model is None else model,
        args=TrainingArguments(output_dir=str(folder), **settings),
        train_dataset=Sentences(),
        eval_dataset=Sentences(32, seed=1),
        callbacks=[] if callback is None else [callback],
        compute_metrics=metrics,
    )


def callback_of(method: Any, **options: Any) -> SparsifierCallback:
    return SparsifierCallback(method, **({"targets": TARGETS} | options))


def sparsity_of(model: nn.Module) -> float:
    return count_zeros(model, find_targets(model, TARGETS))["sparsity"]


def test_the_model_gets_sparse_and_stays_a_plain_one(tmp_path: Path) -> None:
    callback = callback_of(Gradual(sparsity=0.7, delta_t=1))
    trainer = trainer_of(tmp_path, callback)
    names = set(trainer.model.state_dict())
    trainer.train()
    assert callback.report is not None
    assert callback.report["sparsity"] == pytest.approx(0.7, abs=1e-3)
    assert sparsity_of(trainer.model) == callback.report["sparsity"]
    assert set(trainer.model.state_dict()) == names
    assert not any(parameter._post_accumulate_grad_hooks for parameter in trainer.model.parameters())
    trainer.save_model(str(tmp_path / "saved"))
    again = type(trainer.model).from_pretrained(tmp_path / "saved")
    assert sparsity_of(again) == callback.report["sparsity"]


def test_exact_sparsity_is_in_the_trainers_logs(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    callback = callback_of(Gradual(sparsity=0.7, delta_t=1), penalty=L2(1e-3))
    trainer = trainer_of(tmp_path, callback, eval_strategy="steps", eval_steps=4)

    class Later(type(callback).__mro__[1]):  # type: ignore[misc] # any TrainerCallback
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen.append(dict(logs))

    trainer.add_callback(Later())
    trainer.train()
    trained = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(trained) == STEPS
    assert [entry["sparsity"] for entry in trained] == sorted(entry["sparsity"] for entry in trained)
    assert trained[-1]["sparsity"] == sparsity_of(trainer.model)
    assert all(entry["penalty"] > 0 and entry["mask_sparsity"] <= entry["sparsity"] for entry in trained)
    assert [entry["sparsity"] for entry in seen if "loss" in entry] == [entry["sparsity"] for entry in trained]
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(measured) == 3
    assert all("sparsity" not in entry for entry in measured)


# -- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_training_is_the_undisturbed_one(tmp_path: Path, name: str) -> None:
    method, options = METHODS[name], options_for(METHODS[name])
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 7, "logging_strategy": "no"}
    undisturbed = callback_of(method, **options)
    one = trainer_of(tmp_path, undisturbed, model_for(method), **settings)
    one.train()
    resumed = callback_of(method, **options)
    other = trainer_of(tmp_path, resumed, model_for(method, seed=9), **settings)
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same_bits(bits(other.model, resumed.sparsifier), bits(one.model, undisturbed.sparsifier))
    assert resumed.report == undisturbed.report


def test_resuming_keeps_what_the_method_would_begin_with_off_the_loaded_weights(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 5}
    method = METHODS["set"] if "set" in METHODS else Trigger(sparsity=0.6, delta_t=2, patience=1, revive=0.5)
    trainer_of(tmp_path, callback_of(method), **settings).train()
    begun: dict[str, torch.Tensor] = {}

    class Watching(SparsifierCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            loaded = {name: value.clone() for name, value in kwargs["model"].state_dict().items()}
            super().on_train_begin(args, state, control, **kwargs)
            assert_same_bits(kwargs["model"].state_dict(), loaded)
            begun.update(loaded)

    trainer_of(tmp_path, Watching(method, targets=TARGETS), **settings).train(resume_from_checkpoint=True)
    assert begun


def test_the_state_is_found_where_resume_from_says(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 5}
    method = Gradual(sparsity=0.7, delta_t=1)
    trainer_of(tmp_path / "one", callback_of(method), **settings).train()
    checkpoint = tmp_path / "one" / "checkpoint-5"
    with pytest.raises(SparsifierError, match=r"No isogrid.pt of a checkpoint of step 5 .* pass resume_from="):
        trainer_of(tmp_path / "two", callback_of(method), **settings).train(resume_from_checkpoint=str(checkpoint))
    resumed = callback_of(method, resume_from=checkpoint)
    trainer_of(tmp_path / "two", resumed, **settings).train(resume_from_checkpoint=str(checkpoint))
    assert resumed.report is not None


def test_a_state_of_other_weights_is_not_taken(tmp_path: Path) -> None:
    """Two runs write checkpoints of one step, and the Trainer does not say from which it resumes."""
    settings = {"save_strategy": "steps", "save_steps": 5}
    method = Gradual(sparsity=0.7, delta_t=1)
    trainer_of(tmp_path / "one", callback_of(method), **settings).train()
    trainer_of(tmp_path / "two", callback_of(method), tiny_bert(7), **settings).train()
    checkpoint = tmp_path / "one" / "checkpoint-5"
    with pytest.raises(SparsifierError, match=r"with the weights that were loaded is in"):
        trainer_of(tmp_path / "two", callback_of(method), **settings).train(resume_from_checkpoint=str(checkpoint))


def test_a_checkpoint_without_a_state_is_refused(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 5}
    trainer_of(tmp_path, None, **settings).train()
    assert not (tmp_path / "checkpoint-5" / STATE_FILE).exists()
    with pytest.raises(SparsifierError, match=r"No isogrid.pt"):
        trainer_of(tmp_path, callback_of(Static(sparsity=0.5)), **settings).train(resume_from_checkpoint=True)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


DAMAGES: dict[str, Any] = {
    "cut": cut,
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("not a checkpoint", encoding="utf-8"),
    "other": lambda file: torch.save({"x": 1}, file),
    "list": lambda file: torch.save([1], file),
    "state": lambda file: torch.save({"weights": "", "sparsifier": 3}, file),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_state_is_named(tmp_path: Path, name: str) -> None:
    settings = {"save_strategy": "steps", "save_steps": 5, "max_steps": 6}
    trainer_of(tmp_path, callback_of(Static(sparsity=0.5)), **settings).train()
    DAMAGES[name](tmp_path / "checkpoint-5" / STATE_FILE)
    with pytest.raises(FormatError, match=r"checkpoint-5.isogrid.pt is damaged, or holds no sparsifier's state; acc"):
        trainer_of(tmp_path, callback_of(Static(sparsity=0.5)), **settings).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-5")
        )


def test_a_damaged_state_of_another_run_is_passed_over(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 5, "max_steps": 6}
    trainer_of(tmp_path / "a", callback_of(Static(sparsity=0.5)), **settings).train()
    trainer_of(tmp_path / "b", callback_of(Static(sparsity=0.5)), **settings).train()
    cut(tmp_path / "a" / "checkpoint-5" / STATE_FILE)
    resumed = callback_of(Static(sparsity=0.5))
    trainer_of(tmp_path, resumed, **settings).train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-5"))
    assert resumed.report is not None


def test_a_search_puts_its_checkpoints_one_level_deeper(tmp_path: Path) -> None:
    class Searching(Trainer):
        def _get_output_dir(self, trial: Any) -> str:
            return str(Path(self.args.output_dir or "") / "run-3")

    settings = {"save_strategy": "steps", "save_steps": 5, "kind": Searching}
    trainer_of(tmp_path, callback_of(Static(sparsity=0.5)), **settings).train()
    assert (tmp_path / "run-3" / "checkpoint-5" / STATE_FILE).is_file()
    resumed = callback_of(Static(sparsity=0.5))
    trainer_of(tmp_path, resumed, **settings).train(resume_from_checkpoint=str(tmp_path / "run-3" / "checkpoint-5"))
    assert resumed.report is not None


# -- the penalty -----------------------------------------------------------------------------------------------------


class WithPenaltyInItsLoss(Trainer):
    """What a user's own Trainer would do: the penalty is part of the loss."""

    sparsifier: Sparsifier | None = None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        if self.sparsifier is None or not self.model.training:
            return loss
        divisor = 1 if self.model_accepts_loss_kwargs else self.current_gradient_accumulation_steps
        return loss + divisor * self.sparsifier.penalty()


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 3}, {"max_grad_norm": 0.05}], ids=str)
def test_the_penalty_acts_as_one_in_the_loss_would(tmp_path: Path, settings: dict[str, Any]) -> None:
    method = Regularized(penalty=L1(0.02), proximal=False, sparsity=0.5)
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 6, **settings}
    callback = callback_of(method)
    one = trainer_of(tmp_path, callback, tiny_bert(dropout=0.0), **settings)
    one.train()
    other = trainer_of(tmp_path, None, tiny_bert(dropout=0.0), kind=WithPenaltyInItsLoss, **settings)
    other.create_optimizer()
    other.sparsifier = Sparsifier(other.model, method, optimizer=other.optimizer, total_steps=6, targets=TARGETS)
    other.train()
    for (name, value), wanted in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, msg=name, rtol=1e-4, atol=1e-6)
    norms = [[entry["grad_norm"] for entry in t.state.log_history if "loss" in entry] for t in (one, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_a_penalty_that_is_in_the_loss_as_well_counts_once(tmp_path: Path) -> None:
    method = Regularized(penalty=L1(0.02), proximal=False, sparsity=0.5)
    settings = {"optim": "sgd", "max_steps": 4}
    alone, doubled = callback_of(method), callback_of(method)
    one = trainer_of(tmp_path, alone, **settings)
    one.train()

    class Doubling(WithPenaltyInItsLoss):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            self.sparsifier = doubled.sparsifier
            return super().training_step(*args, **kwargs)

    other = trainer_of(tmp_path, doubled, kind=Doubling, **settings)
    other.train()
    assert_same_bits(one.model.state_dict(), other.model.state_dict())


class Scaling(Trainer):
    """A scaler on the CPU stands in for that of fp16."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)


class Overflowing(Scaling):
    """Its third step has gradients that are not finite, so that the scaler skips it."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        return loss * torch.inf if self.state.global_step == 2 else loss


def test_a_scaled_loss_has_a_scaled_penalty(tmp_path: Path) -> None:
    method = Regularized(penalty=L1(0.02), proximal=False, sparsity=0.5)
    models = []
    for kind in (Trainer, Scaling):
        # Accelerate unscales gradients before it clips them where it made the scaler itself.
        settings = {"kind": kind, "optim": "sgd", "max_grad_norm": 0.0, "max_steps": 6}
        trainer = trainer_of(tmp_path, callback_of(method), tiny_bert(dropout=0.0), **settings)
        trainer.train()
        models.append(trainer.model)
    for (name, value), wanted in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(value, wanted, msg=name, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("method", [Regularized(penalty=L1(0.02), proximal=False, sparsity=0.5), Static(sparsity=0.5)])
def test_a_skipped_step_counts_for_nothing(tmp_path: Path, optim: str, method: Method) -> None:
    callback = callback_of(method, total_steps=5)
    trainer_of(tmp_path, callback, kind=Overflowing, optim=optim, max_steps=6, logging_strategy="no").train()
    assert callback.sparsifier is not None
    assert callback.sparsifier.state.step == 5
    assert callback.report is not None
    assert callback.report["sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_bf16_trains(tmp_path: Path) -> None:
    callback = callback_of(Gradual(sparsity=0.7, delta_t=1), penalty=L2(1e-3))
    trainer_of(tmp_path, callback, bf16=True).train()
    assert callback.report is not None
    assert callback.report["sparsity"] == pytest.approx(0.7, abs=1e-3)


def test_gradient_accumulation_counts_steps_and_not_batches(tmp_path: Path) -> None:
    callback = callback_of(Trigger(sparsity=0.5, patience=1, delta_t=1, revive=1.0))
    trainer_of(tmp_path, callback, gradient_accumulation_steps=3, max_steps=7).train()
    assert callback.sparsifier is not None
    assert callback.sparsifier.state.total_steps == callback.sparsifier.state.step == 7


# -- evaluation ------------------------------------------------------------------------------------------------------


def rising(_: Any) -> dict[str, float]:
    return {"score": 0.9}


def test_the_metric_of_the_best_model_is_observed(tmp_path: Path) -> None:
    told: list[float] = []

    class Listening(SparsifierCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_train_begin(args, state, control, **kwargs)
            assert self.sparsifier is not None
            observe = self.sparsifier.observe
            self.sparsifier.observe = lambda metric: (told.append(metric), observe(metric))[1]  # type: ignore[method-assign]

    method = Aware(sparsity=0.6, floor=0.5, delta_t=2)
    trainer_of(
        tmp_path, Listening(method, targets=TARGETS), eval_strategy="steps", eval_steps=4,
        metric_for_best_model="score", compute_metrics=rising,
    ).train()  # fmt: skip
    assert told == [0.9] * 3


def test_a_floor_needs_a_metric(tmp_path: Path) -> None:
    callback = callback_of(Aware(sparsity=0.6, floor=0.5))
    with pytest.raises(UsageError, match=r"Aware holds a floor and gets no metric .* metric_for_best_model"):
        trainer_of(tmp_path, callback).train()
    named = callback_of(Aware(sparsity=0.6, floor=0.5), metric="score")
    trainer_of(tmp_path, named, eval_strategy="steps", eval_steps=4, compute_metrics=rising).train()
    assert named.report is not None


@pytest.mark.parametrize("steps", [STEPS, 4], ids=["going on", "at the end"])
def test_a_metric_that_evaluation_does_not_measure_is_refused(tmp_path: Path, steps: int) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 4, "compute_metrics": rising, "max_steps": steps}
    message = r"metric='eval_acc', which evaluation does not measure; accepted are eval_loss, .*, eval_score, "
    for method in (Aware(sparsity=0.5, floor=0.3), Static(sparsity=0.5)):
        trainer = trainer_of(tmp_path, callback_of(method, metric="eval_acc"), **settings)
        with pytest.raises(UsageError, match=message):
            trainer.train()
        assert trainer.state.global_step == 4


def test_the_metric_may_be_that_of_one_of_several_sets(tmp_path: Path) -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 4, "compute_metrics": rising}
    for name in ("eval_one_score", "other_score"):
        callback = callback_of(Aware(sparsity=0.6, floor=0.5), metric=name)
        trainer = trainer_of(tmp_path, callback, **settings)
        trainer.eval_dataset = {"one": Sentences(16, seed=1), "other": Sentences(16, seed=2)}
        trainer.train()
        assert callback.report is not None
    trainer = trainer_of(tmp_path, callback_of(Aware(sparsity=0.6, floor=0.5), metric="score"), **settings)
    trainer.eval_dataset = {"one": Sentences(16, seed=1), "other": Sentences(16, seed=2)}
    with pytest.raises(UsageError, match=r"metric='eval_score', .*eval_one_score, .*eval_other_score"):
        trainer.train()


def test_a_floor_needs_an_evaluation(tmp_path: Path) -> None:
    callback = callback_of(Aware(sparsity=0.6, floor=0.5), metric="score")
    with pytest.raises(SparsifierError, match=r"a floor, and training ended before eval_score was measured once"):
        trainer_of(tmp_path, callback).train()
    assert callback.report is not None  # the model is a plain one all the same


def test_an_evaluation_before_the_checkpoint_counts(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 4}
    method = Aware(sparsity=0.6, floor=0.5)
    trainer_of(
        tmp_path, callback_of(method, metric="score"), eval_strategy="steps", eval_steps=8, compute_metrics=rising,
        **settings,
    ).train()  # fmt: skip
    resumed = callback_of(method, metric="score")
    trainer_of(tmp_path, resumed, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert resumed.report is not None
    early = trainer_of(tmp_path, callback_of(method, metric="score"), **settings)
    with pytest.raises(SparsifierError, match=r"before eval_score was measured once"):
        early.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


class Falling(Trainer):
    """Its score is best at the first evaluation, and falls from one to the next."""

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.rounds = getattr(self, "rounds", 0) + 1
        self.compute_metrics = lambda _: {"score": 1 / self.rounds}
        return super().evaluate(*args, **kwargs)


BEST = {
    "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "kind": Falling,
    "metric_for_best_model": "score", "greater_is_better": True, "load_best_model_at_end": True,
    "compute_metrics": rising,
}  # fmt: skip


def test_the_best_model_is_one_that_holds_the_sparsity(tmp_path: Path) -> None:
    """The ramp ends at 9 of 12 steps, so that the evaluations at 2 to 8 do not count."""
    callback = callback_of(Gradual(sparsity=0.7, delta_t=1))
    trainer = trainer_of(tmp_path, callback, **BEST)
    trainer.train()
    assert trainer.state.best_global_step == 10
    assert callback.report is not None
    assert callback.report["sparsity"] == sparsity_of(trainer.model) == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.final_sparsity is None] or [None])
def test_the_best_model_without_a_promise_is_the_best_of_all(tmp_path: Path, name: str) -> None:
    method = METHODS[name]
    callback = callback_of(method, **options_for(method))
    trainer = trainer_of(tmp_path, callback, model_for(method), **BEST)
    trainer.train()
    assert trainer.state.best_global_step == 2


def test_moving_masks_are_those_of_the_best_model(tmp_path: Path) -> None:
    callback = callback_of(Trigger(sparsity=0.5, threshold=1e9, patience=1, delta_t=1, revive=0.2))
    trainer = trainer_of(tmp_path, callback, **BEST)
    trainer.train()
    saved = torch.load(Path(trainer.state.best_model_checkpoint or "") / STATE_FILE, weights_only=True)["sparsifier"]
    assert saved["step"] < STEPS
    assert callback.sparsifier is not None
    assert_same_bits(callback.sparsifier.masks, saved["masks"])
    for name, mask in saved["masks"].items():
        assert not trainer.model.get_parameter(name)[~mask].any()


# -- the rest --------------------------------------------------------------------------------------------------------


def test_a_training_that_stops_early_says_so_unless_allowed(tmp_path: Path) -> None:
    method = Gradual(sparsity=0.7, delta_t=1)
    with pytest.raises(SparsifierError, match=r"finalize\(\) came after 4 of 12 steps"):
        trainer_of(tmp_path, callback_of(method, total_steps=STEPS), max_steps=4).train()
    allowed = callback_of(method, total_steps=STEPS, allow_unfinished=True)
    trainer_of(tmp_path, allowed, max_steps=4).train()
    assert allowed.report is not None
    assert 0 < allowed.report["sparsity"] < 0.7
    late = callback_of(method, total_steps=STEPS)
    trainer_of(tmp_path, late, max_steps=10).train()  # the ramp was over
    assert late.report is not None


def test_a_second_training_begins_anew(tmp_path: Path) -> None:
    callback = callback_of(Gradual(sparsity=0.7, delta_t=1))
    trainer = trainer_of(tmp_path, callback)
    trainer.train()
    first = callback.sparsifier
    trainer.train()
    assert callback.sparsifier is not first
    assert callback.report is not None


def test_a_training_that_was_broken_off_leaves_no_hooks_for_the_next(tmp_path: Path) -> None:
    class Breaking(Trainer):
        broken = False

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 3 and not self.broken:
                self.broken = True
                raise RuntimeError("out of memory")
            return super().training_step(*args, **kwargs)

    callback = callback_of(Gradual(sparsity=0.7, delta_t=1))
    trainer = trainer_of(tmp_path, callback, kind=Breaking)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    trainer.train()
    assert callback.report is not None


def test_a_rate_that_rewinds_is_followed(tmp_path: Path) -> None:
    class Rewinding(Static):
        def lr_step(self, state: SparseState) -> int:
            return state.step % 5

    rates: list[float] = []

    class Watching(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            rates.append(self.optimizer.param_groups[0]["lr"])
            return super().training_step(*args, **kwargs)

    trainer_of(tmp_path, callback_of(Rewinding(sparsity=0.5)), kind=Watching, lr_scheduler_type="linear").train()
    assert rates == pytest.approx([5e-3 * (1 - step % 5 / STEPS) for step in range(STEPS)])
    plateau = trainer_of(
        tmp_path, callback_of(Rewinding(sparsity=0.5)), lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps",
        eval_steps=4, metric_for_best_model="loss",
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"rewinds the learning rate, and a ReduceLROnPlateau cannot"):
        plateau.train()


def test_an_option_that_nobody_knows_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"Unknown option of SparsifierCallback 'foo': accepted are .*resume_from, .*data"
    ):
        callback_of(Static(sparsity=0.5), foo=3)


def test_deepspeed_is_refused() -> None:
    callback = callback_of(Static(sparsity=0.5))
    arguments: Any = SimpleNamespace(deepspeed="config.json")
    with pytest.raises(UnsupportedError, match=r"DeepSpeed moves copies of the weights"):
        callback.on_train_begin(arguments, None, None, model=None, optimizer=None)  # type: ignore[arg-type]
    assert isinstance(callback, SparsifierCallback)


def test_every_training_method_is_tried() -> None:
    assert {"gradual", "static", "trigger", "aware", "l1", "keep"} <= METHODS.keys()
    assert all(isinstance(method, Method) for method in METHODS.values())
