"""Lightning: a callback that makes a module sparse while it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.errors import SparsifierError, UnsupportedError, UsageError
from isogrid.integrations.missing import missing
from isogrid.integrations.riding import (
    PenaltyGradient,
    attach,
    check_metric,
    check_observed,
    check_options,
    follow_lr_step,
    has_arrived,
)
from isogrid.penalties import Penalty
from isogrid.sparsify import Method, Sparsifier
from isogrid.sparsify.hooks import raw_optimizer

try:
    from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
    from lightning.pytorch.callbacks import StochasticWeightAveraging
except ModuleNotFoundError as problem:
    raise missing(problem, "lightning", extra="lightning") from None

_AVERAGING: Any = (StochasticWeightAveraging, getattr(callbacks, "WeightAveraging", StochasticWeightAveraging))
"""Lightning's callbacks that average weights; the second is there since 2.6."""


class SparsifierCallback(Callback):
    """Attaches an `isogrid.Sparsifier` to the module and to one of the optimisers of a Lightning ``Trainer``.

    It attaches when training starts and finalises when it ends; in between every weight is its effective one, so that
    validation and checkpoints see the sparse module.  Its state is part of Lightning's checkpoints, and
    ``trainer.fit(..., ckpt_path=...)`` goes on bit by bit: from the end of an epoch, and from the middle of one with a
    loader that saves its place (torchdata's ``StatefulDataLoader``), for Lightning begins any other anew.  Automatic
    and manual optimisation, gradient accumulation and clipping, 16- and bf16-mixed precision and the ``ddp`` strategy
    need nothing more; DeepSpeed and sharded strategies are refused.

    *The penalty.*  A callback cannot change the loss.  Where the method has a penalty (or one is given), its gradient
    is written before the first ``backward`` of each step, so that the step and the clipping are those of
    ``loss + penalty``; ``penalty`` is logged.  With manual optimisation this needs ``self.manual_backward``, after
    ``zero_grad``.

    *Averaged weights.*  ``StochasticWeightAveraging`` and ``WeightAveraging`` put an average in the weights' place, and
    averages have no zeros.  Placed after this callback, theirs have the zeros of the masks, in validation, checkpoints
    and at the end.

    *Closures.*  Lightning computes gradients within ``optimizer.step(closure)``.  Here the closure runs just before the
    step instead, which for the optimisers that a sparsifier accepts is the same.

    Args:
        method: a `Method`, or a `Penalty` alone.
        targets, ignore: names or regular expressions, see `isogrid.masks.find_targets`.
        penalty: a `Penalty` beside a method that has none.
        total_steps: optimiser steps of the whole training; ``trainer.estimated_stepping_batches`` by default.  With
            manual optimisation it must be given: nobody else knows how often this optimiser steps.
        seed: seeds every random choice of the method.
        adopt: start from the zeros that the module holds, as masks.
        optimizer: which of the optimisers that ``configure_optimizers`` returns trains the targets.  Several callbacks
            may ride on one each, with ``targets`` that do not overlap.
        metric: the logged validation metric that the method observes (a floor of `Aware`), such as ``"val_accuracy"``.
        allow_unfinished: accept a training that ends before the sparsity is reached.
        options: further arguments of `isogrid.Sparsifier` (``embeddings``, ``masks``, ``data``, ``forward``, ``loss``).

    Raises:
        UsageError: no number of steps, no such optimiser or option, a method that holds a floor and no metric, or a
            callback that averages weights placed before this one.
        UnsupportedError: DeepSpeed, a strategy that shards the weights, or ``StochasticWeightAveraging`` of a module
            with batch normalisation.
        SparsifierError: a checkpoint without a sparsifier's state, a training that ended too early, or one without a
            validation for the method that holds a floor.

    >>> import isogrid as ig
    >>> callback = SparsifierCallback(ig.Gradual(sparsity=0.9), ignore="head")
    >>> callback.sparsifier is None  # until Trainer(callbacks=[callback]).fit(module, loader)
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
        optimizer: int = 0,
        metric: str | None = None,
        allow_unfinished: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        check_options(SparsifierCallback, options)
        check_metric(method, metric, "name it with metric=")
        self._method = method
        self._total_steps = total_steps
        self._index = optimizer
        self._metric = metric
        self._allow_unfinished = allow_unfinished
        self._options = {
            "targets": targets, "ignore": ignore, "penalty": penalty, "seed": seed, "adopt": adopt, **options
        }  # fmt: skip
        self._gradient: PenaltyGradient | None = None
        self._saved: dict[str, Any] | None = None
        self._closures: Any = None
        self._observed = False
        self.sparsifier: Sparsifier | None = None
        """The sparsifier of the training that runs, or ran last."""
        self.report: dict[str, Any] | None = None
        """The exact counts that `Sparsifier.finalize` returned when training ended."""

    @property
    def state_key(self) -> str:
        return self._generate_state_key(optimizer=self._index)

    # -- the beginning and the end -----------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._release()
        saved, self._saved, self.report = self._saved, None, None
        self._observed = saved is not None and bool(saved.get("observed"))
        model: nn.Module = trainer.strategy.model or pl_module
        if "DeepSpeed" in type(trainer.strategy).__name__:
            raise UnsupportedError(
                "DeepSpeed moves copies of the weights that no sparsifier sees; accepted are one process and the ddp "
                "strategy."
            )
        self._check_averaging(trainer, pl_module)
        if saved is None and trainer.ckpt_path is not None:
            raise SparsifierError(
                f"The checkpoint {trainer.ckpt_path} holds no state of this callback ({self.state_key}); load its "
                "weights before fit() to begin a new sparse training with them."
            )
        if not 0 <= self._index < len(trainer.optimizers):
            raise UsageError(
                f"SparsifierCallback got optimizer={self._index}; accepted are 0 to {len(trainer.optimizers) - 1}, for "
                f"configure_optimizers() gave {len(trainer.optimizers)}."
            )
        optimizer = raw_optimizer(trainer.optimizers[self._index])
        self._closures = optimizer.register_step_pre_hook(self._closure_first)
        try:
            self.sparsifier = attach(
                model, self._method, optimizer=optimizer, saved=saved, total_steps=self._steps(trainer, pl_module),
                scaler=_scaler(trainer), **self._options,
            )  # fmt: skip
        except BaseException:
            self._release()
            raise
        self._gradient = PenaltyGradient(self.sparsifier)

    def _check_averaging(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise for an average that would take the weights' place before training is over."""
        for callback in _averaging(trainer, before=self):
            raise UsageError(
                f"{type(callback).__name__} comes before SparsifierCallback and would put its average in the weights' "
                "place before their zeros are final; accepted is the other order in callbacks=."
            )
        for callback in _averaging(trainer):
            if isinstance(callback, StochasticWeightAveraging) and callback.pl_module_contains_batch_norm(pl_module):
                raise UnsupportedError(
                    f"{type(callback).__name__} runs a module with batch normalisation for one more epoch, with its "
                    "average in the weights' place; accepted is WeightAveraging, placed after SparsifierCallback."
                )

    def _steps(self, trainer: Trainer, pl_module: LightningModule) -> int:
        if self._total_steps is not None:
            return self._total_steps
        estimated = trainer.estimated_stepping_batches
        if not pl_module.automatic_optimization or not math.isfinite(estimated):
            why = "limits neither steps nor epochs" if pl_module.automatic_optimization else "does not step by itself"
            raise UsageError(
                f"SparsifierCallback cannot tell how many steps there will be, for this training {why}; pass "
                "total_steps=, the steps of its optimiser."
            )
        return int(estimated) - trainer.global_step if trainer.ckpt_path is None else int(estimated)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.sparsifier is None:
            return
        unfinished = self._allow_unfinished or has_arrived(self.sparsifier)
        self.report = self.sparsifier.finalize(allow_unfinished=unfinished)
        self._mask_averages(trainer)
        self._release()
        check_observed(self._method, self._metric, self._observed)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.sparsifier is not None and self.report is not None and any(_averaging(trainer)):
            self.report = self.sparsifier.finalize()  # of the average, which is in the weights' place by now

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._release()

    def _release(self) -> None:
        """Take all hooks off; what they were for is over."""
        if self.sparsifier is not None:
            self.sparsifier.detach()
        if self._closures is not None:
            self._closures.remove()
        self._closures = None

    # -- each step ---------------------------------------------------------------------------------------------------

    def _closure_first(
        self, _: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A pre-hook of ``step``: run the closure now and step without one, so that later hooks find gradients.

        Where no batch of the step had a loss (``training_step`` may return None), its penalty is added here.
        """
        rest = dict(kwargs)
        closure: Callable[[], Any] | None = rest.pop("closure", None) or (args[1] if len(args) > 1 else None)
        if closure is None:
            return None
        with torch.enable_grad():
            closure()
        if self._gradient is not None:
            self._gradient.add()
        return (args[0],), rest

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._gradient is not None:
            self._gradient.add(_scaler(trainer))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self.sparsifier is None or raw_optimizer(optimizer) is not self.sparsifier.state.optimizer:
            return
        for config in trainer.lr_scheduler_configs:
            if config.scheduler.optimizer is self.sparsifier.state.optimizer:
                follow_lr_step(self.sparsifier, config.scheduler)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Counting zeros is not free: only when Lightning's loggers write, as its own monitors do.
        if self.sparsifier is None or not trainer._logger_connector.should_update_logs:
            return
        shown = self.sparsifier.telemetry()
        if self._gradient is not None and self._gradient.value is not None:
            shown["penalty"] = float(self._gradient.value)
        prefix = "" if len(trainer.optimizers) == 1 else f"optimizer_{self._index}/"
        pl_module.log_dict({f"{prefix}{name}": value for name, value in shown.items()}, on_step=True, on_epoch=False)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mask_averages(trainer)

    def _mask_averages(self, trainer: Trainer) -> None:
        """Put the zeros into each average, before its own callback, which comes later, does anything with it."""
        if self.sparsifier is None:
            return
        for callback in _averaging(trainer):
            if callback._average_model is not None:
                self.sparsifier.apply_to(callback._average_model)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._metric is None or self.sparsifier is None or trainer.sanity_checking or self.report is not None:
            return
        if self._metric not in trainer.callback_metrics:
            raise UsageError(
                f"SparsifierCallback got metric={self._metric!r}, which validation does not log; accepted are "
                f"{', '.join(sorted(trainer.callback_metrics)) or 'none, for nothing is logged'}."
            )
        self.sparsifier.observe(float(trainer.callback_metrics[self._metric]))
        self._observed = True

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {} if self.sparsifier is None else {**self.sparsifier.state_dict(), "observed": self._observed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning calls it before there are optimisers: the state waits for ``on_train_start``."""
        self._saved = state_dict

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._mask_averages(trainer)


def _averaging(trainer: Any, before: Callback | None = None) -> Iterator[Any]:
    """Those of the trainer's callbacks that average weights, only as far as `before` where it is given."""
    found = takewhile(lambda callback: callback is not before, trainer.callbacks)
    return (callback for callback in found if isinstance(callback, _AVERAGING))


def _scaler(trainer: Trainer) -> Any:
    """The ``GradScaler`` of 16-mixed precision; None with any other."""
    return getattr(trainer.precision_plugin, "scaler", None)
