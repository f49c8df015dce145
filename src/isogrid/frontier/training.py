"""One phase of training: from a checkpoint, for some passes, to a checkpoint."""

from __future__ import annotations

import math
import random
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isogrid.distillation import distillation_loss
from isogrid.errors import DataError, RunError, TrainingError, UndefinedMetricError, UsageError
from isogrid.frontier.effort import Effort, samples_of
from isogrid.frontier.ensemble import Ensemble
from isogrid.frontier.events import EpochEnd, Listener
from isogrid.frontier.phases import Phase, Trained
from isogrid.frontier.rundir import RunDirectory
from isogrid.frontier.tensor_states import load_state, save_state
from isogrid.masks import count_zeros, find_targets
from isogrid.metrics import Outcomes, to_outcomes, value_of
from isogrid.sparsify import Method, Sparsifier
from isogrid.tasks import Recipe, Split, Task

_CALIBRATION_SAMPLES = 1024
"""How much of the training data a method sees that looks at data outside the training."""
_WARM_UP = 0.05
"""Share of a phase in which the learning rate rises to its peak."""


class Trainer:
    """Trains phases of one task in one run directory, each once: a finished phase is read from its checkpoint."""

    def __init__(self, task: Task, recipe: Recipe, run: RunDirectory, seed: int, listener: Listener) -> None:
        self.task = task
        self.recipe = recipe
        self.history: list[dict[str, Any]] = []
        self._run = run
        self.seed = seed
        self._listener = listener
        self._steps_per_epoch: int | None = None
        self._effort: Effort | None = None
        self.flops = 0.0
        """What all phases of the run have cost in training."""
        self.earlier = 0.0
        """Seconds that processes before this one have trained."""

    def new_model(self) -> nn.Module:
        """The task's model with its initial weights, the same at every call."""
        seed_everything(self.seed, "model", 0)
        model = self.task.model()
        if not isinstance(model, nn.Module):
            raise UsageError(f"The task's model() returned {type(model).__name__}; accepted is a torch.nn.Module.")
        check_finite(dict(model.named_parameters()), "at the start")
        return model

    def model_of(self, trained: Trained) -> nn.Module:
        """The task's model with a phase's weights, in eval mode."""
        model = self.new_model()
        model.load_state_dict(trained.model)
        return model.eval()

    def measure(self, model: nn.Module, split: Split) -> Outcomes | float:
        """The task's metric on a split."""
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return to_outcomes(self.task.evaluate(model, split))
        finally:
            model.train(training)

    def metric_of(self, model: nn.Module, *, sparse: bool) -> float:
        """The metric on the validation split; of a sparse model NaN where it is undefined, which breaks every floor."""
        try:
            return value_of(self.measure(model, "validation"))
        except UndefinedMetricError:
            if sparse:
                return math.nan
            raise

    @property
    def steps_per_epoch(self) -> int:
        if self._steps_per_epoch is None:
            self._steps_per_epoch = self.task.steps_per_epoch()
            if self._steps_per_epoch < 1:
                raise DataError(f"The training data of {self.task.name} is empty; accepted is one batch or more.")
        return self._steps_per_epoch

    @property
    def effort(self) -> Effort:
        if self._effort is None:
            self._effort = Effort(self.new_model(), self.task)
        return self._effort

    def calibration(self, method: Method) -> list[Any] | None:
        """Training batches for a method that looks at data outside the training."""
        return calibration_batches(self.task, self.seed) if method.needs_data else None

    def train(self, phase: Phase, start: Trained | None = None, teacher: Ensemble | None = None) -> Trained:
        """Run a phase, or what is left of it.

        Raises:
            TrainingError: the loss or a weight is not finite.
            DataError: a pass gives no batch.
        """
        done = load_state(self._run, phase.name)
        if done is not None:
            self._run.drop_checkpoint(f"{phase.name}.partial")
            self.history.extend(done["history"])
            self._listener.phase_started(phase.title, phase.epochs, phase.epochs)
            self.flops += done["own_flops"]
            self.earlier += done.get("seconds", 0.0)
            self.check_pace(done, phase)
            return Trained(done["model"], done["masks"], done["metric"], done["steps"], done["flops"])
        run = _PhaseRun(self, phase, start, teacher)
        trained, history = run.run()
        self.history.extend(history)
        self.flops += run.flops
        save_state(
            self._run,
            phase.name,
            {
                "model": trained.model, "masks": trained.masks, "metric": trained.metric, "steps": trained.steps,
                "history": history, "flops": trained.flops, "own_flops": run.flops, "seconds": run.seconds,
                "steps_per_epoch": self.steps_per_epoch,
            },
        )  # fmt: skip
        self._run.drop_checkpoint(f"{phase.name}.partial")
        return trained

    def check_pace(self, saved: Mapping[str, Any], phase: Phase) -> None:
        """Raise ``RunError`` if a checkpoint is of other data: its steps would not be those that are left."""
        steps = saved.get("steps_per_epoch", self.steps_per_epoch)
        if steps != self.steps_per_epoch:
            raise RunError(
                f"{phase.title} was trained with {steps} batches a pass, and now the data give {self.steps_per_epoch}; "
                "accepted is the same data in the same batches, or --force to start anew."
            )


class _PhaseRun:
    """The state of one phase while it runs."""

    def __init__(self, trainer: Trainer, phase: Phase, start: Trained | None, teacher: Ensemble | None) -> None:
        self.trainer, self.phase = trainer, phase
        self.task, self.recipe = trainer.task, trainer.recipe
        self.run_directory, self.listener, self.seed = trainer._run, trainer._listener, trainer.seed
        self.teacher = teacher
        self.total_steps = phase.epochs * trainer.steps_per_epoch
        self.model = trainer.new_model()
        if start is not None:
            self.model.load_state_dict(start.model)
        assert phase.lr is not None, "a recipe of PyTorch has a learning rate"
        self.lr = phase.lr
        self.optimizer = build_optimizer(self.model, self.recipe, self.lr)
        self.sparsifier = self._sparsify(start)
        self.targets = find_targets(self.model, self.task.targets, self.task.ignore)
        self.infinite = frozenset(_infinite(self.model.state_dict()))
        self.step, self.epoch = 0, 0
        self.flops = 0.0
        self.started, self.seconds_before = time.monotonic(), 0.0
        self.flops_before = start.flops or 0.0 if start is not None else 0.0
        trainer.effort.forget()
        self.history: list[dict[str, Any]] = []
        self.metric = math.nan

    def _sparsify(self, start: Trained | None) -> Sparsifier | None:
        if self.phase.method is None:
            return None
        return Sparsifier(
            self.model,
            self.phase.method,
            optimizer=self.optimizer,
            total_steps=self.total_steps,
            targets=self.task.targets,
            ignore=self.task.ignore,
            masks=start.masks if start is not None else None,
            seed=self.seed,
            data=self.trainer.calibration(self.phase.method),
            forward=self.task.forward,
            loss=self.task.loss,
        )

    def run(self) -> tuple[Trained, list[dict[str, Any]]]:
        self._resume()
        self.listener.phase_started(self.phase.title, self.phase.epochs, self.epoch)
        while self.epoch < self.phase.epochs and not self._reached():
            self._one_epoch()
            if self.epoch < self.phase.epochs and not self._reached():
                self._save_partial()
        masks = None
        if self.sparsifier is not None:
            self.sparsifier.finalize(allow_unfinished=True)
            masks = self.sparsifier.masks
        state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return Trained(state, masks, self.metric, self.step, self.flops_before + self.flops), self.history

    @property
    def seconds(self) -> float:
        """How long the phase has been trained, in all processes."""
        return self.seconds_before + time.monotonic() - self.started

    def _reached(self) -> bool:
        until = self.phase.until
        return until is not None and self.epoch > 0 and self.task.metric.at_least(self.metric, until)

    def _one_epoch(self) -> None:
        seed_everything(self.seed, self.phase.name, self.epoch)
        self.model.train()
        total, batches = 0.0, 0
        for batch in self.task.batches():
            if batches >= self.trainer.steps_per_epoch:
                break
            total += self._one_step(batch)
            batches += 1
            self.listener.step_taken(self.phase.title, self.step / self.total_steps)
        if batches != self.trainer.steps_per_epoch:
            raise DataError(
                f"A pass over the training data of {self.task.name} gave {batches} batches, and "
                f"{self.trainer.steps_per_epoch} are expected of every pass; batches() must start anew at each call."
            )
        self.epoch += 1
        check_finite(self.model.state_dict(), f"after {self.phase.title}, epoch {self.epoch}", but=self.infinite)
        self.metric = self.trainer.metric_of(self.model, sparse=self.sparsifier is not None)
        undefined = math.isnan(self.metric)
        if self.sparsifier is not None and not undefined:
            self.sparsifier.observe(self.metric)
        sparsity = count_zeros(self.model, self.targets)["sparsity"]
        telemetry = self.sparsifier.telemetry() if self.sparsifier is not None else {}
        event = EpochEnd(
            self.phase.title,
            self.epoch,
            self.phase.epochs,
            self.step,
            total / batches,
            self.metric,
            sparsity,
            telemetry,
        )
        self.history.append(
            {
                "phase": self.phase.title,
                "step": self.step,
                "loss": event.loss,
                "metric": None if undefined else self.metric,
                "sparsity": sparsity,
            }
        )
        self.listener.epoch_ended(event)

    def _one_step(self, batch: Any) -> float:
        due = self.step if self.sparsifier is None else self.sparsifier.lr_step
        rate = self.lr * rate_at(due, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        taught = self.teacher is not None and self.recipe.distill > 0
        teachers = len(self.teacher) if self.teacher is not None and taught else 0
        self.flops += self.trainer.effort.step(self.sparsifier, batch, teachers)
        answer = self.task.forward(self.model, batch)
        loss = self.task.loss(answer, batch)
        if self.teacher is not None and taught:
            wanted = self.teacher.answer(lambda member: self.task.forward(member, batch))
            soft = _soft_loss(answer, wanted, self.recipe.temperature)
            loss = (1 - self.recipe.distill) * loss + self.recipe.distill * soft
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss became {value} in {self.phase.title}, epoch {self.epoch + 1}, step {self.step}; lower the "
                "learning rate or check the data, and start again."
            )
        if self.sparsifier is not None:
            loss = loss + self.sparsifier.penalty()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return value

    def _save_partial(self) -> None:
        save_state(
            self.run_directory,
            f"{self.phase.name}.partial",
            {
                "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": self.epoch,
                "sparsifier": self.sparsifier.state_dict() if self.sparsifier is not None else None,
                "step": self.step, "metric": self.metric, "history": self.history, "flops": self.flops,
                "seconds": self.seconds, "steps_per_epoch": self.trainer.steps_per_epoch,
            },
        )  # fmt: skip

    def _resume(self) -> None:
        saved = load_state(self.run_directory, f"{self.phase.name}.partial")
        if saved is None:
            return
        self.trainer.check_pace(saved, self.phase)
        self.seconds_before = saved.get("seconds", 0.0)
        self.trainer.earlier += self.seconds_before
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.sparsifier is not None:
            self.sparsifier.load_state_dict(saved["sparsifier"])
        self.epoch, self.step, self.metric = saved["epoch"], saved["step"], saved["metric"]
        self.history, self.flops = saved["history"], saved["flops"]


def _soft_loss(answer: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The distance from the teachers' answers; of one number a sample, which has no softmax, the squared one."""
    if answer.ndim < 2 or answer.shape[-1] == 1:
        return nn.functional.mse_loss(answer, wanted)
    return distillation_loss(answer, wanted, temperature)


def calibration_batches(task: Task, seed: int) -> list[Any]:
    """The first training batches of a seeded pass, about a thousand samples."""
    seed_everything(seed, "calibration", 0)
    chosen: list[Any] = []
    samples = 0
    for batch in task.batches():
        chosen.append(batch)
        samples += samples_of(batch)
        if samples >= _CALIBRATION_SAMPLES:
            break
    return chosen


def build_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """The recipe's optimiser over the model's trainable parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UsageError("The model has no trainable parameter; accepted is a model with at least one.")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=lr, weight_decay=recipe.weight_decay)


def rate_at(step: int, total: int) -> float:
    """The learning rate of a phase as a fraction of its peak: a linear warm-up, then half a cosine to nought."""
    warm_up = max(1, int(_WARM_UP * total))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


def check_finite(state: Mapping[str, Any], when: str, *, but: Collection[str] = ()) -> None:
    """Raise ``TrainingError`` if a number of the model is NaN or infinite: nothing that follows could be trusted.

    Buffers may be so by design, as the mask of causal attention is; those of `but` were so from the start.
    """
    for name in _infinite(state):
        if name not in but:
            raise TrainingError(
                f"The numbers of {name} are not finite {when}; lower the learning rate, or check the data and the "
                "model."
            )


def _infinite(state: Mapping[str, Any]) -> Iterator[str]:
    """The names of tensors that hold NaN or infinities."""
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            yield name


def seed_everything(seed: int, purpose: str, index: int) -> None:
    """Seed Python's, numpy's and torch's generators from a name, so that any pass can be repeated on its own."""
    derived = zlib.crc32(f"{seed}/{purpose}/{index}".encode())
    random.seed(derived)
    np.random.seed(derived)  # noqa: NPY002 - the generator that a task's own code may draw from
    torch.manual_seed(derived)
