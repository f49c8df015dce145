"""The sparsifier: any training loop becomes a sparse one in three lines."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from isogrid.calibration import Calibration, Forward, Loss
from isogrid.checks import check_whole
from isogrid.errors import SparsifierError, UnsupportedError, UsageError
from isogrid.masks import apply_masks, count_zeros, find_targets, masks_of_zeros, unwrap
from isogrid.penalties import Penalty
from isogrid.rules.method import Gradients, Usage
from isogrid.sparsify.by_rows import ByRows
from isogrid.sparsify.gradients import GradientGate, fused_scale, skipped
from isogrid.sparsify.hooks import Hooks
from isogrid.sparsify.method import Method
from isogrid.sparsify.pull import Pull
from isogrid.sparsify.ranks import Ranks
from isogrid.sparsify.regularized import Regularized
from isogrid.sparsify.saving import from_saved, to_saved
from isogrid.sparsify.shadow import Shadow, ShadowMethod
from isogrid.sparsify.state import SparseLayer, SparseState, dense_layers


class Sparsifier:
    """Makes a model sparse while it is trained, riding on the optimiser that trains it.

    Outside the optimiser's step every parameter holds its effective weight: what is pruned is exactly zero, so that
    evaluation, saving and copies see the sparse model.  Names never change and no module is wrapped.  Gradients of
    pruned weights are zero as soon as ``backward`` has written them (they do not inflate a clipping norm), and so is
    their part of the optimiser's state.  Methods that move dense weights behind the effective ones (`ShadowMethod`)
    keep those here, and say themselves which gradients they use.

    Args:
        model: any module; also compiled, or inside ``DistributedDataParallel`` (every rank then holds the same masks).
        method: a `Method`, or a `Penalty` alone.
        penalty: a `Penalty` beside a method that has none: the whole training long at its own strength, by its proximal
            step where that makes zeros (they add to those of the masks, and become part of them at the end), else as a
            term of the loss.
        optimizer: the optimiser that trains `model`.  Attach after it was built and, where there is one, before a
            learning-rate schedule starts.
        total_steps: optimiser steps of the whole training; schedules are fractions of it.
        targets, ignore: names or regular expressions, see `isogrid.masks.find_targets`.
        embeddings: whether embeddings are targets without being named.
        adopt: start from the zeros that the model holds, as masks.
        masks: start from these masks (parameter name to boolean tensor, True = active).
        scaler: the ``GradScaler`` in use, so that methods which look at gradients of pruned weights see them unscaled.
        seed: seeds every random choice of the method.
        data: batches for methods that look at the model before training starts (SNIP, say).
        forward, loss: how the model answers one of these batches and what the loss of that is, see `Calibration`.

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
        penalty: Penalty | None = None,
        targets: str | Sequence[str] | None = None,
        ignore: str | Sequence[str] | None = None,
        embeddings: bool = False,
        adopt: bool = False,
        masks: Mapping[str, Tensor] | None = None,
        scaler: Any = None,
        seed: int = 0,
        data: Iterable[Any] | None = None,
        forward: Forward | None = None,
        loss: Loss | None = None,
    ) -> None:
        self.method = Regularized(penalty=method) if isinstance(method, Penalty) else method
        if not isinstance(self.method, Method):
            raise UsageError(f"Sparsifier got method={method!r}; accepted is a Method, such as Gradual(sparsity=0.9).")
        if self.method.usage is Usage.AFTER:
            raise UsageError(f"{type(self.method).__name__} works after training; call isogrid.prune(model, method).")
        check_whole("Sparsifier", "total_steps", total_steps)
        check_whole("Sparsifier", "seed", seed, least=0)
        if self.method.needs_data and data is None:
            raise UsageError(
                f"{type(self.method).__name__} looks at data before training starts and got none; pass data=, batches "
                "of a few samples."
            )
        self._outer, self._model = model, unwrap(model)
        self._ranks = Ranks(model)
        self._pull = self._checked_pull(penalty)
        self._by_rows = ByRows(self.method, penalised=self._pull is not None)
        self._scaler = scaler
        found = find_targets(self._model, targets, ignore, embeddings=embeddings)
        self.state = SparseState(dense_layers(found), total_steps, seed, model=self._model)
        self.state.calibration = None if data is None else Calibration(data, forward, loss)
        self._penalised = False
        self._finished = False
        self._begun = False
        self._agreed = 0
        self._shadow = Shadow(self.state, self.method) if isinstance(self.method, ShadowMethod) else None
        self._hooks = Hooks(self.state, self._new_gate, self._before_step, self._after_step)
        self._hooks.attach(optimizer)
        try:
            self._by_rows.check(self.state.layers, self._model)
            self.method.check(self.state)
            if self._pull is not None:
                self._pull.check(self.state)
            if adopt or masks is not None:
                start = masks_of_zeros(found) if masks is None else self.state.fit_masks(masks)
                self.state.set_masks(start)
            if self._shadow is not None:
                self._shadow.begin()
            self.method.begin(self.state)
            self._begun = True
            self._watch()
            self._settle()
            self._agree()
        except BaseException:
            self.detach()
            raise
        self._prepare_step()

    def _checked_pull(self, penalty: Penalty | None) -> Pull | None:
        if penalty is None:
            return None
        if not isinstance(penalty, Penalty):
            raise UsageError(f"Sparsifier got penalty={penalty!r}; accepted are L1, L2, ElasticNet and GroupLasso.")
        if isinstance(getattr(self.method, "penalty", None), Penalty):
            raise UsageError(
                f"Sparsifier got penalty={penalty!r} beside {type(self.method).__name__}, which has a penalty of its "
                "own; accepted is one of the two."
            )
        return Pull.of(penalty)

    # -- riding on the optimiser -------------------------------------------------------------------------------------

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Ride on `optimizer` from now on, instead of the one before.

        A deep copy of an optimiser loses its hooks; this puts them on again.

        Raises:
            UnsupportedError: an optimiser that evaluates the loss several times a step (LBFGS).
            TargetError: the optimiser holds none of the targets.
            SparsifierError: another sparsifier is attached to one of the targets.
        """
        self._hooks.attach(optimizer)
        self._watch()
        self._prepare_step()

    def detach(self) -> None:
        """Take all hooks off the model and the optimiser.  The masks are no longer held from then on."""
        self._hooks.detach()

    def _watch(self) -> None:
        """Have a method that samples weights for forward passes see them come."""
        if self._shadow is not None and isinstance(self.method, ShadowMethod) and self.method.samples:
            self._hooks.watch(self._outer, self._shadow)

    def _new_gate(self, layer: SparseLayer) -> GradientGate:
        me = weakref.ref(self)  # a parameter's hooks hold what they call where no garbage collector looks

        def used(layer: SparseLayer) -> Tensor | None:
            sparsifier = me()
            return layer.mask if sparsifier is None else sparsifier._used(layer)

        return GradientGate(layer, self._scaler, self._ranks, used, self._by_rows)

    def _used(self, layer: SparseLayer) -> Tensor | None:
        """Where a gradient is of use, before the method has begun as after it."""
        if self._begun and isinstance(self.method, ShadowMethod):
            return self.method.used(self.state, layer)
        return layer.mask

    def __getstate__(self) -> NoReturn:
        raise UnsupportedError(
            "A Sparsifier cannot be copied or pickled, for its hooks belong to one model and one optimiser; attach a "
            "new one to the copies, and load_state_dict() this one's state_dict()."
        )

    def __enter__(self) -> Sparsifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    @property
    def _wanted(self) -> Gradients:
        # Dense weights move by the gradients that the parameters hold: there are no hidden ones to gather.
        return self.method.gradients(self.state) if self._shadow is None else "active"

    def _prepare_step(self) -> None:
        for gate in self._hooks.gates:
            gate.open(dense=self._wanted == "dense")

    def _before_step(self, has_closure: bool) -> None:
        if skipped(self.state.optimizer):
            return
        if not has_closure:
            self._check_penalty()
        self._ranks.share_numbers(self.state)
        for gate in self._hooks.gates:
            gate.register()  # where a frozen parameter was set free
        scale = fused_scale(self.state.optimizer)
        wanted = self._wanted
        if wanted != "none":
            if has_closure:
                raise SparsifierError(
                    f"{type(self.method).__name__} looks at gradients before the weights move, and a closure computes "
                    "them within the step; call backward first, and step() without a closure."
                )
            for gate in self._hooks.gates:
                gate.deliver(dense=wanted == "dense", scale=scale)
        if self._shadow is not None:
            self._shadow.check()
        self.method.before_step(self.state)
        if self._shadow is not None:
            self._shadow.expose(scale)
        for layer in self.state.layers:
            layer.gradient = None

    def _after_step(self, has_closure: bool) -> None:
        if skipped(self.state.optimizer):
            self._prepare_step()
            return
        if has_closure:
            self._check_penalty()
        if self._shadow is None:
            self.state.hold_zeros()
        self.state.step += 1
        if self._pull is not None:
            self._pull.shrink(self.state)
        if self._shadow is not None:
            self._shadow.capture()
        self.method.after_step(self.state)
        self._settle()
        self._agree()
        self._penalised = False
        self._prepare_step()

    def _settle(self) -> None:
        """Where dense weights stand behind the effective ones, have the parameters hold the latter."""
        if self._shadow is not None:
            self._shadow.settle()

    def _agree(self) -> None:
        """One process alone has nothing to do here."""
        self._ranks.share_masks(self.state, changed=self.state.changes != self._agreed)
        self._agreed = self.state.changes

    # -- the loop's side ---------------------------------------------------------------------------------------------

    def penalty(self) -> Tensor:
        """The term to add to the loss: a differentiable scalar, zero where the method has none.

        It is counted once for each optimiser step: after ``backward`` went through it, further calls before the step
        return zero, so that gradient accumulation does not add it up.  Add it to the loss as it is, outside a division
        by the number of accumulated batches.
        """
        if self._penalised and all(gate.dropped for gate in self._hooks.gates):
            self._penalised = False
        terms = [] if self._penalised else [self.method.loss_term(self.state)]
        if self._pull is not None and not self._penalised:
            terms.append(self._pull.loss_term(self.state))
        total = torch.zeros((), device=self.state.layers[0].weight.device)
        for term in terms:
            if term is not None:
                total = total + term
        if total.requires_grad:
            total.register_hook(self._seen)
        return total

    def _seen(self, _: Tensor) -> None:
        """``backward`` went through the penalty."""
        self._penalised = True

    def _check_penalty(self) -> None:
        owed = self.method.has_loss_term(self.state) or (self._pull is not None and not self._pull.proximal)
        if owed and not self._penalised:
            owner = type(self.method).__name__ if self._pull is None else f"Sparsifier(penalty={self._pull.penalty!r})"
            raise SparsifierError(
                f"{owner} has a penalty and the loss of step {self.state.step} did not contain it; add "
                "sparsifier.penalty() to the loss before backward."
            )

    def observe(self, metric: float) -> None:
        """Tell the method a validation metric.  Methods that close a loop over it act on it, others ignore it."""
        value = float(metric)
        if math.isnan(value):
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

    @property
    def lr_step(self) -> int:
        """The step at which the loop's learning-rate schedule should stand.

        It is the number of steps taken, but with a method that rewinds (`IMP`): set the rate from it before each step.
        """
        return self.method.lr_step(self.state)

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
            SparsifierError: fewer steps were taken than ``total_steps`` (unless `allow_unfinished`), a pruned weight is
                not zero because something other than the optimiser moved it, or a parameter was replaced.
        """
        if not self._finished:
            if self.state.step < self.state.total_steps and not allow_unfinished:
                raise SparsifierError(
                    f"finalize() came after {self.state.step} of {self.state.total_steps} steps; finish the schedule, "
                    "or pass allow_unfinished=True to keep the sparsity reached so far."
                )
            if self.state.sampled:
                self._settle()
            parameters = dict(self._model.named_parameters(remove_duplicate=False))
            for layer in self.state.layers:
                if parameters.get(layer.name) is not layer.target.parameter:
                    raise SparsifierError(
                        f"{layer.name} is no longer the parameter that was trained; something replaced it, such as "
                        "load_state_dict(assign=True): attach a new sparsifier after that."
                    )
                if bool((layer.weight[layer.pruned] != 0).any()):
                    raise SparsifierError(
                        f"Pruned weights of {layer.name} are not zero; something other than the attached optimiser "
                        "moved them (a deep-copied optimiser loses its hooks: attach() it)."
                    )
            self.method.end(self.state)
            if self._pull is not None:
                self._pull.adopt_zeros(self.state)
            self.detach()
            self._finished = True
        return count_zeros(self._model, [layer.target for layer in self.state.layers])

    # -- saving and resuming -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact resumption needs beside the model's and the optimiser's own states.

        Only tensors and plain values, so that ``torch.load(..., weights_only=True)`` reads it.
        """
        return to_saved(self.state, repr(self.method), repr(self._pull and self._pull.penalty))

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `saved`, which must come from the same method, targets and number of steps.

        Load the model's and the optimiser's states before or after; the order does not matter.

        Raises:
            SparsifierError: the state is of another training.
        """
        from_saved(self.state, saved, repr(self.method), repr(self._pull and self._pull.penalty))
        self._settle()
        self._penalised = False
        self._prepare_step()
