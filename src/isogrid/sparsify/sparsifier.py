"""The sparsifier: any training loop becomes a sparse one in three lines."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from isogrid.errors import SparsifierError, TargetError, UnsupportedError, UsageError
from isogrid.masks import apply_masks, count_zeros, find_targets, masks_of_zeros, unwrap
from isogrid.penalties import Penalty
from isogrid.sparsify.gradients import GradientGate
from isogrid.sparsify.method import Method, Usage
from isogrid.sparsify.regularized import Regularized
from isogrid.sparsify.state import SparseLayer, SparseState

_STATE_VERSION = 1


class Sparsifier:
    """Makes a model sparse while it is trained, riding on the optimiser that trains it.

    Outside the optimiser's step every parameter holds its effective weight: what is pruned is exactly zero, so that
    evaluation, saving and copies see the sparse model.  Names never change and no module is wrapped.  Gradients of
    pruned weights are zero as soon as ``backward`` has written them (they do not inflate a clipping norm), and so is
    their part of the optimiser's state.

    Args:
        model: any module; also compiled, or inside ``DistributedDataParallel`` (every rank then holds the same masks).
        method: a `Method`, or a `Penalty` alone.
        optimizer: the optimiser that trains `model`.  Attach after it was built and, where there is one, before a
            learning-rate schedule starts.
        total_steps: optimiser steps of the whole training; schedules are fractions of it.
        targets, ignore: names or regular expressions, see `isogrid.masks.find_targets`.
        embeddings: whether embeddings are targets without being named.
        adopt: start from the zeros that the model holds, as masks.
        masks: start from these masks (parameter name to boolean tensor, True = active).
        scaler: the ``GradScaler`` in use, so that methods which look at gradients of pruned weights see them unscaled.
        seed: seeds every random choice of the method.

    Raises:
        UsageError, TargetError, PatternError, UnsupportedError: what does not fit, in one sentence.

    >>> import torch, isogrid as ig
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(20, 5)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> sparsifier = ig.Sparsifier(model, ig.Gradual(sparsity=0.9), optimizer=optimizer, total_steps=40)
    >>> for _ in range(40):
    ...     loss = model(torch.randn(8, 20)).square().mean() + sparsifier.penalty()
    ...     loss.backward(); optimizer.step(); optimizer.zero_grad()
    >>> sparsifier.finalize()["sparsity"]
    0.9
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method | Penalty,
        *,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        targets: str | Sequence[str] | None = None,
        ignore: str | Sequence[str] | None = None,
        embeddings: bool = False,
        adopt: bool = False,
        masks: Mapping[str, Tensor] | None = None,
        scaler: Any = None,
        seed: int = 0,
    ) -> None:
        self.method = Regularized(penalty=method) if isinstance(method, Penalty) else method
        if not isinstance(self.method, Method):
            raise UsageError(f"Sparsifier got method={method!r}; accepted is a Method, such as Gradual(sparsity=0.9).")
        if self.method.usage is Usage.AFTER:
            raise UsageError(f"{type(self.method).__name__} works after training; call isogrid.prune(model, method).")
        if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
            raise UsageError(f"Sparsifier got total_steps={total_steps!r}; accepted is a whole number >= 1.")
        self._model = unwrap(model)
        self._group = model.process_group if isinstance(model, nn.parallel.DistributedDataParallel) else None
        self._scaler = scaler
        found = find_targets(self._model, targets, ignore, embeddings=embeddings)
        layers = [SparseLayer(target, torch.ones_like(target.parameter, dtype=torch.bool)) for target in found]
        self.state = SparseState(layers, total_steps, seed)
        self._penalised = False
        self._finished = False
        self._handles: list[Any] = []
        self._gates: list[GradientGate] = []
        self.attach(optimizer)
        try:
            if adopt or masks is not None:
                start = masks_of_zeros(found) if masks is None else _fit_masks(self.state, masks)
                self.state.set_masks(start)
            self.method.begin(self.state)
            self._agree()
        except BaseException:
            self.detach()
            raise
        self._prepare_step()

    # -- riding on the optimiser -------------------------------------------------------------------------------------

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Ride on `optimizer` from now on, instead of the one before.

        A deep copy of an optimiser loses its hooks; this puts them on again.

        Raises:
            UnsupportedError: an optimiser that evaluates the loss several times a step (LBFGS).
            TargetError: the optimiser holds none of the targets.
            SparsifierError: another sparsifier is attached to one of the targets.
        """
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UnsupportedError(
                "LBFGS moves weights several times within one step, where masks cannot be held; use SGD, Adam or another "
                "optimiser that moves them once."
            )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not any(id(layer.target.parameter) in held for layer in self.state.layers):
            raise TargetError(
                f"The {type(optimizer).__name__} optimiser holds none of the {len(self.state.layers)} targets, the first of "
                f"which is {self.state.layers[0].name}; pass the optimiser that trains this model."
            )
        self.detach()
        self.state.optimizer = optimizer
        self._gates = [GradientGate(layer, self._scaler, self._group) for layer in self.state.layers]
        for gate in self._gates:
            self._handles.extend(gate.register())
        me = weakref.ref(self)

        def before(opt: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            sparsifier = me()
            if sparsifier is not None:
                sparsifier._before_step(has_closure=bool(args) or kwargs.get("closure") is not None)

        def after(opt: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            sparsifier = me()
            if sparsifier is not None:
                sparsifier._after_step(has_closure=bool(args) or kwargs.get("closure") is not None)

        self._handles.append(optimizer.register_step_pre_hook(before))
        self._handles.append(optimizer.register_step_post_hook(after))

    def detach(self) -> None:
        """Take all hooks off the model and the optimiser.  The masks are no longer held from then on."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._gates = [], []

    def __enter__(self) -> Sparsifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    def _prepare_step(self) -> None:
        wanted = self.method.gradients(self.state)
        for gate in self._gates:
            gate.open(dense=wanted == "dense")

    def _before_step(self, *, has_closure: bool) -> None:
        if self._skipped():
            return
        if not has_closure:
            self._check_penalty()
        wanted = self.method.gradients(self.state)
        if wanted != "none":
            scale = self._fused_scale()
            for gate in self._gates:
                gate.deliver(dense=wanted == "dense", scale=scale)
        self.method.before_step(self.state)
        for layer in self.state.layers:
            layer.gradient = None

    def _after_step(self, *, has_closure: bool) -> None:
        if self._skipped():
            self._prepare_step()
            return
        if has_closure:
            self._check_penalty()
        self.state.hold_zeros()
        self.state.step += 1
        self.method.after_step(self.state)
        self._agree()
        self._penalised = False
        self._prepare_step()

    def _skipped(self) -> bool:
        """Whether a gradient scaler told a fused optimiser to leave the weights alone; its hooks are called even so."""
        found = getattr(self.state.optimizer, "found_inf", None)
        return isinstance(found, Tensor) and bool(found.max() > 0)

    def _fused_scale(self) -> float:
        """The factor by which a fused optimiser's gradients are still scaled; 1 where they are not."""
        scale = getattr(self.state.optimizer, "grad_scale", None)
        return float(scale) if isinstance(scale, Tensor) else 1.0

    def _agree(self) -> None:
        """Rank 0's masks for all ranks: gradients that differ in the last bit must not make masks that differ."""
        if self._group is None or dist.get_world_size(self._group) == 1:
            return
        masks = {}
        for layer in self.state.layers:
            mask = layer.mask.to(torch.uint8)
            dist.broadcast(mask, src=dist.get_global_rank(self._group, 0), group=self._group)
            masks[layer.name] = mask.bool()
        if any(not torch.equal(masks[layer.name], layer.mask) for layer in self.state.layers):
            self.state.set_masks(masks)

    # -- the loop's side ---------------------------------------------------------------------------------------------

    def penalty(self) -> Tensor:
        """The term to add to the loss: a differentiable scalar, zero where the method has none.

        It is counted once for each optimiser step: after ``backward`` went through it, further calls before the step
        return zero, so that gradient accumulation does not add it up.  Add it to the loss as it is, outside a division
        by the number of accumulated batches.
        """
        device = self.state.layers[0].weight.device
        term = None if self._penalised else self.method.loss_term(self.state)
        if term is None:
            return torch.zeros((), device=device)
        if term.requires_grad:
            me = weakref.ref(self)

            def seen(gradient: Tensor) -> None:
                sparsifier = me()
                if sparsifier is not None:
                    sparsifier._penalised = True

            term.register_hook(seen)
        return term

    def _check_penalty(self) -> None:
        if self.method.has_loss_term(self.state) and not self._penalised:
            raise SparsifierError(
                f"{type(self.method).__name__} has a penalty and the loss of step {self.state.step} did not contain it; add "
                "sparsifier.penalty() to the loss before backward."
            )

    def observe(self, metric: float) -> None:
        """Tell the method a validation metric.  Methods that close a loop over it act on it, others ignore it."""
        value = float(metric)
        if value != value:
            raise UsageError("observe() got NaN; accepted is a metric that is a number.")
        self.method.observe(self.state, value)

    @property
    def sparsity(self) -> float:
        """The share of the targets' weights that are exactly zero now."""
        return self.state.sparsity

    @property
    def masks(self) -> dict[str, Tensor]:
        """A copy of the masks: parameter name to boolean tensor, True = active."""
        return {layer.name: layer.mask.clone() for layer in self.state.layers}

    @property
    def targets(self) -> list[str]:
        """The names of the parameters being pruned."""
        return [layer.name for layer in self.state.layers]

    def telemetry(self) -> dict[str, float]:
        """What a log of the training should show: exact sparsity and the method's own numbers."""
        return self.method.telemetry(self.state)

    def apply_to(self, model: nn.Module) -> None:
        """Put this training's zeros into a copy of the model that is averaged apart from it (EMA, SWA)."""
        apply_masks(model, {layer.name: layer.mask for layer in self.state.layers})

    def finalize(self, *, allow_unfinished: bool = False) -> dict[str, Any]:
        """End the training: hooks off, a plain module with true zeros left.

        Returns the exact counts of `isogrid.masks.count_zeros`.

        Raises:
            SparsifierError: fewer steps were taken than ``total_steps`` (unless `allow_unfinished`), or a pruned weight is
                not zero, because something other than the optimiser moved it.
        """
        if not self._finished:
            if self.state.step < self.state.total_steps and not allow_unfinished:
                raise SparsifierError(
                    f"finalize() came after {self.state.step} of {self.state.total_steps} steps; finish the schedule, or pass "
                    "allow_unfinished=True to keep the sparsity reached so far."
                )
            for layer in self.state.layers:
                if bool((layer.weight[layer.pruned] != 0).any()):
                    raise SparsifierError(
                        f"Pruned weights of {layer.name} are not zero; something other than the attached optimiser moved them "
                        "(a deep-copied optimiser loses its hooks: attach() it)."
                    )
            self.method.end(self.state)
            self.detach()
            self._finished = True
        return count_zeros(self._model, [layer.target for layer in self.state.layers])

    # -- saving and resuming -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact resumption needs beside the model's and the optimiser's own states.

        Only tensors and plain values, so that ``torch.load(..., weights_only=True)`` reads it.
        """
        return {
            "version": _STATE_VERSION,
            "method": repr(self.method),
            "step": self.state.step,
            "total_steps": self.state.total_steps,
            "seed": self.state.seed,
            "numbers": dict(self.state.numbers),
            "masks": self.masks,
            "buffers": {layer.name: {k: v.clone() for k, v in layer.buffers.items()} for layer in self.state.layers},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `saved`, which must come from the same method, targets and number of steps.

        Load the model's and the optimiser's states before or after; the order does not matter.

        Raises:
            SparsifierError: the state is of another training.
        """
        if saved.get("version") != _STATE_VERSION:
            raise SparsifierError(
                f"The sparsifier's state has version {saved.get('version')!r}; this release reads version {_STATE_VERSION}."
            )
        for key, mine in (
            ("method", repr(self.method)),
            ("total_steps", self.state.total_steps),
            ("seed", self.state.seed),
        ):
            if saved[key] != mine:
                raise SparsifierError(f"The saved state has {key}={saved[key]}, and this sparsifier has {key}={mine}.")
        masks = _fit_masks(self.state, saved["masks"])
        for layer in self.state.layers:
            for name, value in saved["buffers"][layer.name].items():
                layer.buffers[name] = value.to(layer.mask.device, copy=True)
        self.state.numbers = dict(saved["numbers"])
        self.state.step = int(saved["step"])
        self.state.set_masks(masks)
        self._penalised = False
        self._prepare_step()


def _fit_masks(state: SparseState, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`masks` on the layers' devices, checked to name every target and nothing else, in the right shapes."""
    names = {layer.name for layer in state.layers}
    strange = sorted(set(masks) ^ names)
    if strange:
        where = "lack" if strange[0] in names else "name"
        raise TargetError(
            f"The masks {where} {strange[0]}; they must name exactly the targets, {', '.join(sorted(names))}."
        )
    fitted = {}
    for layer in state.layers:
        mask = masks[layer.name]
        if mask.shape != layer.mask.shape or mask.dtype != torch.bool:
            raise TargetError(
                f"The mask of {layer.name} is {mask.dtype} of shape {tuple(mask.shape)}; accepted is torch.bool of shape "
                f"{tuple(layer.mask.shape)}."
            )
        fitted[layer.name] = mask.to(layer.mask.device)
    return fitted
