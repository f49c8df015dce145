"""All that a sparsifier hangs on an optimiser, on the targets and, for some methods, on the model's forward pass."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from isogrid.errors import SparsifierError, TargetError, UnsupportedError
from isogrid.masks import unwrap
from isogrid.sparsify.gradients import GradientGate
from isogrid.sparsify.shadow import Shadow
from isogrid.sparsify.state import SparseLayer, SparseState


class Hooks:
    """The hooks of one sparsifier, put on and taken off together."""

    def __init__(
        self,
        state: SparseState,
        new_gate: Callable[[SparseLayer], GradientGate],
        before_step: Callable[[bool], None],
        after_step: Callable[[bool], None],
    ) -> None:
        """The two last are called around the optimiser's step, with whether it was given a closure."""
        self.gates: list[GradientGate] = []
        self._state, self._new_gate = state, new_gate
        self._before_step, self._after_step = before_step, after_step
        self._handles: list[Any] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Ride on `optimizer`, instead of the one before; raises what ``Sparsifier.attach`` does."""
        optimizer = raw_optimizer(optimizer)
        _check(optimizer, self._state.layers)
        self.detach()
        self._state.optimizer = optimizer
        try:
            for layer in self._state.layers:
                gate = self._new_gate(layer)
                gate.register()
                self.gates.append(gate)
        except SparsifierError:
            self.detach()
            raise

        # The hooks get what step() got: the optimiser itself, and where there is one the closure.
        def has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
            return any(argument is not None for argument in (*args[1:], kwargs.get("closure")))

        def before(_: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._before_step(has_closure(args, kwargs))

        def after(_: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._after_step(has_closure(args, kwargs))

        self._handles.append(optimizer.register_step_pre_hook(before))
        self._handles.append(optimizer.register_step_post_hook(after))

    def watch(self, model: nn.Module, shadow: Shadow) -> None:
        """Tell `shadow` of the forward passes of `model`, also where it is called below its wrappers."""
        inner = unwrap(model)
        for module in [model] if inner is model else [model, inner]:
            below = module is not model
            enter = _ForwardHook(module, lambda m: shadow.enter(training=m.training and torch.is_grad_enabled()), below)
            leave = _ForwardHook(module, lambda _: shadow.leave(), below)
            self._handles.append(module.register_forward_pre_hook(enter))
            self._handles.append(module.register_forward_hook(leave, always_call=True))

    def detach(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        for gate in self.gates:
            gate.close()
        self._handles, self.gates = [], []


class _ForwardHook:
    """A call around the forward pass of one module, and of none of its copies."""

    def __init__(self, module: nn.Module, call: Callable[[nn.Module], None], below: bool) -> None:
        self._module = weakref.ref(module)
        self._call = torch.compiler.disable(call)  # weights are swapped outside of what torch.compile traces
        self._below = below

    def __call__(self, module: nn.Module, *_: Any) -> None:
        if self._below and torch.compiler.is_compiling():
            return  # the compiled wrapper tells already, and a call here would break its graph
        if self._module() is module:
            self._call(module)

    def __reduce__(self) -> tuple[Any, ...]:
        # What a copy or a file gets: something that takes any arguments and does nothing, from the standard library,
        # so that a saved model needs none of this one to be read.
        return getattr, (contextlib.nullcontext(), "__exit__")


def raw_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser that moves the weights, below wrappers (Accelerate's, say) that pass ``step`` on to it.

    >>> optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    >>> raw_optimizer(optimizer) is optimizer
    True
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def _check(optimizer: torch.optim.Optimizer, layers: list[SparseLayer]) -> None:
    """Refuse an optimiser that cannot train these layers sparsely."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UnsupportedError(
            "LBFGS moves weights several times within one step, where masks cannot be held; use SGD, Adam or "
            "another optimiser that moves them once."
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    apart = [layer.target for layer in layers if id(layer.target.parameter) not in held]
    if len(apart) == len(layers):
        raise TargetError(
            f"The {type(optimizer).__name__} optimiser holds none of the {len(apart)} targets, the first of which "
            f"is {apart[0].name}; pass the optimiser that trains this model."
        )
    if loose := [target.name for target in apart if target.parameter.requires_grad]:
        raise TargetError(
            f"The {type(optimizer).__name__} optimiser lacks {len(loose)} of the {len(layers)} targets, "
            f"the first of which is {loose[0]}; leave them out with ignore=, or freeze them (requires_grad=False)."
        )
