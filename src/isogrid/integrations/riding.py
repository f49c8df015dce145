"""What every trainer's integration does: attach late, resume, add the penalty where the loss is out of reach."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from isogrid.errors import SparsifierError, UnsupportedError, UsageError
from isogrid.masks import unwrap
from isogrid.names import unknown_name
from isogrid.penalties import Penalty
from isogrid.schedules import Schedule
from isogrid.sparsify import Method, Sparsifier
from isogrid.sparsify.gradients import GradientGate
from isogrid.sparsify.hooks import raw_optimizer

_ATTACHED = frozenset({"model", "method", "optimizer", "total_steps", "scaler"})
"""The arguments of a ``Sparsifier`` that its trainer gives."""


def in_group(model: nn.Module, group: dist.ProcessGroup) -> nn.Module:
    """What tells a ``Sparsifier`` that `model` is trained by the processes of `group`.

    Some trainers show their callbacks the bare model and keep the ``DistributedDataParallel`` around it to themselves.
    A second real one would reduce the gradients again, so this is one of which nothing but its two names is filled in.
    """
    around = cast(Any, nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel))
    nn.Module.__init__(around)
    around.module, around.process_group = model, group
    return cast(nn.Module, around)


def attach(
    model: nn.Module,
    method: Method | Penalty,
    *,
    optimizer: torch.optim.Optimizer,
    saved: dict[str, Any] | None = None,
    **options: Any,
) -> Sparsifier:
    """A ``Sparsifier`` on the raw optimiser, which goes on from `saved` where there is such a state.

    Trainers load the model's and the optimiser's states before their callbacks may attach anything.  A method that
    begins with masks of its own would then zero weights that are active by now, so what was loaded is put back before
    the masks are those of `saved`.
    """
    ridden = raw_optimizer(optimizer)
    if saved is None:
        return Sparsifier(model, method, optimizer=ridden, **options)
    with _undisturbed(unwrap(model), ridden):
        sparsifier = Sparsifier(model, method, optimizer=ridden, **options)
    try:
        sparsifier.load_state_dict(saved)
    except BaseException:
        sparsifier.detach()
        raise
    return sparsifier


@contextmanager
def _undisturbed(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Whatever happens within, the model, what the optimiser remembers and the random numbers are as before."""
    live = [value for value in model.state_dict().values() if isinstance(value, Tensor)]
    live += [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    before = [value.detach().clone() for value in live]
    devices = list({value.device for value in live if value.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        yield
    with torch.no_grad():
        for value, kept in zip(live, before, strict=True):
            value.copy_(kept)


class PenaltyGradient:
    """Adds the gradient of a sparsifier's penalty to that of the loss, once in each optimiser step.

    For loops whose loss is out of reach.  The sum is what ``(loss + sparsifier.penalty()).backward()`` gives, whatever
    the loop divides its loss by when it accumulates gradients, and it is there before gradients are clipped.  It must
    be added after the gradients of the last step are gone and before ``backward`` of the first batch of the next one.

    The gradient is written by hand and not by a ``backward`` of its own: that would tell a ``DistributedDataParallel``
    that the parameters are ready before the loss has reached them.
    """

    def __init__(self, sparsifier: Sparsifier) -> None:
        self._sparsifier = sparsifier
        self.value: Tensor | None = None
        """The penalty that was added last, detached; None as long as there was none."""

    def add(self, scaler: Any = None) -> None:
        """Add it, unless it is there; `scaler` is the ``GradScaler`` that scales the loss, if any does."""
        term = self._sparsifier.penalty()
        if not term.requires_grad:
            return
        self.value = term.detach()
        layers = self._sparsifier.state.layers
        parameters = [p for p in (layer.target.parameter for layer in layers) if p.requires_grad]
        scaled = term if scaler is None else scaler.scale(term)
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(scaled, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                _accumulate(parameter, gradient)


def _accumulate(parameter: nn.Parameter, gradient: Tensor) -> None:
    """What ``backward`` does at its end, but told to the sparsifier alone."""
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)
    for hook in list((parameter._post_accumulate_grad_hooks or {}).values()):
        if isinstance(getattr(hook, "__self__", None), GradientGate):
            hook(parameter)


def follow_lr_step(sparsifier: Sparsifier, scheduler: object) -> None:
    """Set the learning rates to where the method wants the schedule to stand, if that is not where it stands.

    Raises:
        UnsupportedError: the method rewinds, and the schedule cannot be asked for the rate of an earlier step.
    """
    step = sparsifier.lr_step
    if scheduler is None or step == sparsifier.state.step:
        return
    if not isinstance(scheduler, LambdaLR):
        raise UnsupportedError(
            f"{type(sparsifier.method).__name__} rewinds the learning rate, and a {type(scheduler).__name__} cannot be "
            "asked for the rate of an earlier step; accepted is a LambdaLR, or no schedule."
        )
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, base, factor in groups:
        group["lr"] = base * factor(step)


def has_arrived(sparsifier: Sparsifier) -> bool:
    """Whether the sparsity that the method promises is there, or its ramp is over: what comes later only recovers."""
    method, state = sparsifier.method, sparsifier.state
    goal, schedule = method.final_sparsity, getattr(method, "schedule", None)
    if goal is None or (isinstance(schedule, Schedule) and state.progress >= schedule.end):
        return True
    return state.mask_sparsity >= goal - 1 / state.size


def check_options(callback: type, options: Iterable[str]) -> None:
    """Raise ``UsageError`` for an option that neither the callback's class nor a ``Sparsifier`` knows."""
    own = [p.name for p in inspect.signature(callback).parameters.values() if p.kind is p.KEYWORD_ONLY]
    passed_on = [name for name in inspect.signature(Sparsifier).parameters if name not in _ATTACHED]
    accepted = list(dict.fromkeys(own + passed_on))
    for option in options:
        if option not in accepted:
            raise unknown_name(f"option of {callback.__name__}", option, accepted)


def _holds_floor(method: Method | Penalty) -> bool:
    """Whether the method acts on what it observes."""
    return getattr(method, "floor", None) is not None


def check_metric(method: Method | Penalty, metric: str | None, where: str) -> None:
    """Raise ``UsageError`` if the method holds a floor and is never told the metric; `where` says how to name it."""
    if _holds_floor(method) and metric is None:
        raise UsageError(f"{type(method).__name__} holds a floor and gets no metric to compare with it; {where}.")


def check_observed(method: Method | Penalty, metric: str | None, observed: bool) -> None:
    """Raise ``SparsifierError`` if the method holds a floor and training is over before it was told the metric."""
    if _holds_floor(method) and not observed:
        raise SparsifierError(
            f"{type(method).__name__} holds a floor, and training ended before {metric} was measured once; accepted is "
            "a training with an evaluation in between."
        )
