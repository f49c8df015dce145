"""The Hugging Face Trainer: a callback that makes the model sparse while it is trained."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from isogrid.errors import FormatError, SparsifierError, UnsupportedError, UsageError
from isogrid.integrations.missing import missing
from isogrid.integrations.riding import (
    PenaltyGradient,
    attach,
    check_metric,
    check_observed,
    check_options,
    follow_lr_step,
    has_arrived,
    in_group,
)
from isogrid.penalties import Penalty
from isogrid.sparsify import Method, Sparsifier

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ModuleNotFoundError as problem:
    raise missing(problem, "transformers", extra="transformers") from None

STATE_FILE = "isogrid.pt"
"""The file in a checkpoint's folder that holds the sparsifier's state."""

_DAMAGES = (EOFError, LookupError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError)
"""What ``torch.load`` raises for a file that was cut short or is none of its own, and what other contents lead to."""


class SparsifierCallback(TrainerCallback):
    """Attaches an `isogrid.Sparsifier` to the model and the optimiser of a ``transformers.Trainer``.

    It attaches when training begins and finalises when it ends; in between every weight is its effective one, so that
    evaluation and checkpoints see the sparse model.  Its state goes into each checkpoint's folder (``isogrid.pt``), and
    ``trainer.train(resume_from_checkpoint=...)`` goes on bit by bit.  Gradient accumulation, clipping, mixed precision
    and data-parallel processes need nothing more; DeepSpeed and FSDP are refused.

    *The penalty.*  A callback cannot change the loss.  Where the method has a penalty (or one is given), its gradient
    is written before the first batch of each step, so that the step, the clipping and the logged ``grad_norm`` are
    those of ``loss + penalty``; the logged ``loss`` is that of the task alone, with ``penalty`` beside it.

    *The best model.*  With ``metric_for_best_model`` only checkpoints count that hold the sparsity which the method
    promises: a better metric from before the zeros were there says nothing.  ``load_best_model_at_end`` brings the
    masks back that belong to those weights.

    *Logs.*  The exact ``sparsity`` and the method's own numbers join the Trainer's training logs in
    ``state.log_history`` and in all callbacks that come after this one.

    Args:
        method: a `Method`, or a `Penalty` alone.
        targets, ignore: names or regular expressions, see `isogrid.masks.find_targets`.
        penalty: a `Penalty` beside a method that has none.
        total_steps: optimiser steps of the whole training; the Trainer's own number by default.
        seed: seeds every random choice of the method.
        adopt: start from the zeros that the model holds, as masks.
        metric: the evaluation metric that the method observes (a floor of `Aware`), such as ``"eval_accuracy"``; by
            default ``metric_for_best_model``.
        resume_from: the checkpoint's folder to look for the state in.  Needed only where it lies neither in
            ``output_dir`` nor in ``args.resume_from_checkpoint``: the Trainer does not tell callbacks what it loads.
        allow_unfinished: accept a training that ends before the sparsity is reached.
        options: further arguments of `isogrid.Sparsifier` (``embeddings``, ``masks``, ``data``, ``forward``, ``loss``).

    Raises:
        UsageError: a method that holds a floor and no metric, a metric that evaluation does not measure, or an option
            that nobody knows.
        UnsupportedError: DeepSpeed, or FSDP.
        SparsifierError: a checkpoint without the state that belongs to its weights, a training that ended too early, or
            one without an evaluation for the method that holds a floor.
        FormatError: a checkpoint's state is damaged.

    >>> import isogrid as ig
    >>> callback = SparsifierCallback(ig.Gradual(sparsity=0.9), ignore="classifier")
    >>> callback.sparsifier is None  # until trainer.train(), of Trainer(model, args, callbacks=[callback], ...)
    True
    """

    def __init__(
        self,
        method: Method | Penalty,
        *,
        targets: str | Sequence[str] | None = None,
        ignore: str | Sequence[str] | None = None,
        penalty: Penalty | None = None,
        total_steps: int | None = None,
        seed: int = 0,
        adopt: bool = False,
        metric: str | None = None,
        resume_from: str | Path | None = None,
        allow_unfinished: bool = False,
        **options: Any,
    ) -> None:
        check_options(SparsifierCallback, options)
        self._method = method
        self._total_steps = total_steps
        self._metric = metric
        self._resume_from = resume_from
        self._allow_unfinished = allow_unfinished
        self._options = {
            "targets": targets, "ignore": ignore, "penalty": penalty, "seed": seed, "adopt": adopt, **options
        }  # fmt: skip
        self._gradient: PenaltyGradient | None = None
        self._scaler: Any = None
        self._measured: set[str] = set()
        self._observed = False
        self.sparsifier: Sparsifier | None = None
        """The sparsifier of the training that runs, or ran last."""
        self.report: dict[str, Any] | None = None
        """The exact counts that `Sparsifier.finalize` returned when training ended."""

    # -- the beginning and the end -----------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if getattr(args, "deepspeed", None):
            raise UnsupportedError(
                "DeepSpeed moves copies of the weights that no sparsifier sees; accepted are one process and "
                "DistributedDataParallel."
            )
        check_metric(self._method, self._metric_name(args), "name it with metric= or metric_for_best_model")
        if self.sparsifier is not None:
            self.sparsifier.detach()  # of a training that was broken off
        self.report = None
        self._measured = set()
        saved = self._saved(args, state, model) if state.global_step > 0 else None
        self._observed = saved is not None and bool(saved.get("observed"))
        self._scaler = getattr(optimizer, "scaler", None)
        distributed = args.world_size > 1 and dist.is_available() and dist.is_initialized()
        assert dist.group.WORLD is not None or not distributed
        self.sparsifier = attach(
            in_group(model, dist.group.WORLD) if distributed and dist.group.WORLD is not None else model,
            self._method,
            optimizer=optimizer,
            saved=None if saved is None else saved["sparsifier"],
            total_steps=state.max_steps if self._total_steps is None else self._total_steps,
            scaler=self._scaler,
            **self._options,
        )
        self._gradient = PenaltyGradient(self.sparsifier)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.sparsifier is None:
            return
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            # The weights are those of the best checkpoint by now, and its masks belong to them.
            saved = _read(Path(state.best_model_checkpoint), kwargs["model"])
            if saved is not None:
                self.sparsifier.load_state_dict(saved["sparsifier"])
        unfinished = self._allow_unfinished or has_arrived(self.sparsifier)
        self.report = self.sparsifier.finalize(allow_unfinished=unfinished)
        self._check_measured(args)
        check_observed(self._method, self._metric_name(args), self._observed)

    # -- each step ---------------------------------------------------------------------------------------------------

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.sparsifier is None or self._gradient is None:
            return
        self._check_measured(args)
        if state.best_metric is not None and not has_arrived(self.sparsifier):
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        follow_lr_step(self.sparsifier, kwargs.get("lr_scheduler"))
        self._gradient.add(self._scaler)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs.get("logs")
        if self.sparsifier is None or self._gradient is None or not logs or "loss" not in logs:
            return
        shown = self.sparsifier.telemetry()
        if self._gradient.value is not None:
            shown["penalty"] = float(self._gradient.value)
        # The Trainer has put a copy into its history before it asks the callbacks.
        for written in (logs, state.log_history[-1]):
            written.update(shown)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        name = self._metric_name(args)
        measured = kwargs.get("metrics") or {}
        if self.sparsifier is None or self.report is not None:
            return
        self._measured.update(key for key in measured if key.startswith("eval_"))
        if name in measured:
            self.sparsifier.observe(measured[name])
            self._observed = True

    def _check_measured(self, args: TrainingArguments) -> None:
        """Raise if the evaluation that is over lacks the metric; with several sets it is known only after the last."""
        name, measured, self._measured = self._metric_name(args), self._measured, set()
        if name is not None and measured and not self._observed and name not in measured:
            raise UsageError(
                f"SparsifierCallback got metric={name!r}, which evaluation does not measure; accepted are "
                f"{', '.join(sorted(measured))}."
            )

    def _metric_name(self, args: TrainingArguments) -> str | None:
        name = self._metric or args.metric_for_best_model
        return name if name is None or name.startswith("eval_") else f"eval_{name}"

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.sparsifier is None or not args.should_save:
            return
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        folders = [folder for folder in _folders(args, name) if folder.is_dir()]
        if not folders:
            raise SparsifierError(f"The Trainer saved {name}, and there is no such folder in {args.output_dir}.")
        # The one that was just written: a hyperparameter search has one for each trial.
        folder = max(folders, key=lambda folder: folder.stat().st_mtime_ns)
        state_dict = self.sparsifier.state_dict()
        weights = fingerprint(kwargs["model"], state_dict["masks"])
        content = {"weights": weights, "sparsifier": state_dict, "observed": self._observed}
        unfinished = folder / f"{STATE_FILE}.unfinished"
        torch.save(content, unfinished)
        unfinished.replace(folder / STATE_FILE)

    def _saved(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> dict[str, Any]:
        """What was saved with the weights which the Trainer has loaded."""
        damaged: FormatError | None = None
        for folder in self._candidates(args, state):
            try:
                saved = _read(folder, model)
            except FormatError as problem:  # another trial's, perhaps
                damaged = damaged or problem
                continue
            if saved is not None:
                return saved
        raise damaged or SparsifierError(
            f"No {STATE_FILE} of a checkpoint of step {state.global_step} with the weights that were loaded is in "
            f"{args.output_dir}; pass resume_from= to the callback, the folder that trainer.train() was given."
        )

    def _candidates(self, args: TrainingArguments, state: TrainerState) -> Iterator[Path]:
        named = [self._resume_from, args.resume_from_checkpoint]
        yield from (Path(folder) for folder in named if isinstance(folder, str | Path))
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        yield from _folders(args, name)
        if state.best_model_checkpoint is not None:
            yield Path(state.best_model_checkpoint).parent / name


def _folders(args: TrainingArguments, name: str) -> Iterator[Path]:
    """Where the Trainer may have put a checkpoint of that name; searches put theirs one level deeper."""
    output = Path(args.output_dir or ".")
    yield output / name
    yield from sorted(output.glob(f"*/{name}"))


def _read(folder: Path, model: nn.Module) -> dict[str, Any] | None:
    """What ``on_save`` wrote into a checkpoint's folder; None if it did not, or it is not of the model's weights."""
    file = folder / STATE_FILE
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        weights, names = content["weights"], list(content["sparsifier"]["masks"])
    except _DAMAGES as problem:
        raise FormatError(
            f"{file} is damaged, or holds no sparsifier's state; accepted is the file that the callback saved there."
        ) from problem
    return content if weights == fingerprint(model, names) else None


def fingerprint(model: nn.Module, names: Iterable[str]) -> str:
    """A digest of the parameters of these names: what tells whose weights a sparsifier's state belongs to.

    >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> fingerprint(one, ["weight"]) == fingerprint(other, ["weight"])
    False
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(names):
        digest.update(name.encode())
        if name in parameters:
            raw = parameters[name].detach().cpu().contiguous().view(torch.uint8)
            digest.update(raw.numpy().data)
    return digest.hexdigest()
