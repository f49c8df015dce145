"""What a model does with data: the zeros in its activations, and the units that never fire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from isogrid.activations import SparseReLU, SparseTanh, TopK
from isogrid.errors import DataError, UsageError
from isogrid.evaluating import evaluating
from isogrid.masks import unwrap

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    SparseReLU,
    SparseTanh,
    TopK,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Threshold,
)
"""The modules that `measure` watches when it is not told which."""


@dataclass(frozen=True)
class ActivationSparsity:
    """What one module put out.

    Attributes:
        name: of the module, as in ``model.named_modules()``.
        kind: its class.
        values: outputs seen in all.
        zeros: those of them that were exactly zero, -0.0 included.
        units: outputs a sample has along its unit axis (axis 1 of images ``[n, c, ...]`` with two or more further axes
            or of matrices ``[n, units]``; the last axis of sequences ``[n, steps, units]``).
        dead: units that were zero for every sample and place.
    """

    name: str
    kind: str
    values: int
    zeros: int
    units: int
    dead: int

    @property
    def sparsity(self) -> float:
        """The zero share of the outputs."""
        return self.zeros / self.values if self.values else 0.0


@dataclass(frozen=True)
class Measurement:
    """Activation sparsity by module, in the order in which they first ran.

    Attributes:
        activations: one row a module.
        batches: how many were run.
    """

    activations: tuple[ActivationSparsity, ...]
    batches: int

    @property
    def sparsity(self) -> float:
        """The zero share of all outputs watched."""
        values = sum(row.values for row in self.activations)
        return sum(row.zeros for row in self.activations) / values if values else 0.0

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        rows = [
            {
                "name": row.name,
                "kind": row.kind,
                "sparsity": row.sparsity,
                "values": row.values,
                "zeros": row.zeros,
                "units": row.units,
                "dead": row.dead,
            }
            for row in self.activations
        ]
        return {"sparsity": self.sparsity, "batches": self.batches, "activations": rows}

    def __str__(self) -> str:
        lines = [
            f"{row.name}: {100 * row.sparsity:.1f} % zero, {row.dead} of {row.units} units dead"
            for row in self.activations
        ]
        return "\n".join([f"{100 * self.sparsity:.1f} % of the activations are zero", *lines])


class _Tally:
    """Counts of one module, kept on its device until they are asked for."""

    def __init__(self) -> None:
        self.values = 0
        self.zeros: Tensor | int = 0
        self.alive: Tensor | None = None

    def add(self, name: str, output: Tensor) -> None:
        zero = output.detach() == 0
        axis = _unit_axis(output)
        others = [i for i in range(output.dim()) if i != axis]
        alive = ~(zero.all(dim=others) if others else zero)
        if self.alive is not None and self.alive.shape != alive.shape:
            raise UsageError(
                f"{name} puts out {alive.numel()} units in one batch and {self.alive.numel()} in another; accepted are "
                "batches with the same features."
            )
        self.alive = alive if self.alive is None else self.alive | alive
        self.values += output.numel()
        self.zeros = self.zeros + zero.sum()


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    modules: str | Sequence[str] | None = None,
    max_batches: int | None = None,
    labels: bool = True,
) -> Measurement:
    """Run batches through a model and count the exact zeros that each activation module puts out.

    The model runs in eval mode without gradients and is left as it was.  Activations called as functions are not seen:
    use their module form, or name the modules whose outputs shall be counted.

    Args:
        model: its wrappers (``torch.compile``, DDP) are seen through.
        batches: each a tensor, or a sequence or mapping of the model's arguments.  Of a pair ``(inputs, labels)`` with
            integer labels, as loaders of classification give, only the inputs are passed.
        labels: whether such pairs are of inputs and labels; False where they are two inputs.
        modules: names of the modules to watch, as in ``named_modules()``; None takes all of `ACTIVATIONS`.
        max_batches: stop after so many.

    Raises:
        UsageError: a name that is no module or of one that returned no floating tensor, no activation module in the
            model, ``max_batches`` below 1, or batches that differ in features.
        DataError: there is no batch.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> found = measure(model, [torch.zeros(3, 4), torch.ones(3, 4)])
    >>> found.activations[0].name, found.activations[0].values
    ('1', 48)
    """
    whole = isinstance(max_batches, int) and not isinstance(max_batches, bool)
    if max_batches is not None and not (whole and max_batches >= 1):
        raise UsageError(f"measure got max_batches={max_batches!r}; accepted is a whole number >= 1.")
    model = unwrap(model)
    watched = _watched(model, modules)
    tallies: dict[str, _Tally] = {}

    def count(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            tallies.setdefault(name, _Tally()).add(name, output)

    run = 0
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for name, module in watched.items():
            handle = module.register_forward_hook(lambda _, __, output, name=name: count(name, output))
            stack.callback(handle.remove)
        for batch in islice(batches, max_batches):
            _call(model, batch, labels)
            run += 1
    if run == 0:
        raise DataError("measure got no batch; accepted is one batch or more.")
    if modules is not None and (silent := sorted(watched.keys() - tallies.keys())):
        raise UsageError(
            f"measure saw no floating tensor come out of {silent[0]}; accepted are modules that run and return a "
            "tensor."
        )
    return Measurement(tuple(_row(name, watched[name], tally) for name, tally in tallies.items()), run)


def _watched(model: nn.Module, names: str | Sequence[str] | None) -> dict[str, nn.Module]:
    everything = dict(model.named_modules())
    if names is None:
        found = {name: module for name, module in everything.items() if isinstance(module, ACTIVATIONS)}
        if not found:
            raise UsageError(
                "measure found no activation module in this model; name the modules whose outputs shall be counted "
                "with modules=."
            )
        return found
    chosen = [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in everything:
            known = ", ".join(list(everything)[1:6])
            raise UsageError(f"measure got the module {name!r}, which the model lacks; it has {known} and so on.")
    return {name: everything[name] for name in chosen}


def _call(model: nn.Module, batch: Any, labels: bool) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, Tensor):
        model(batch)
    elif labels and _is_labelled(batch):
        model(batch[0])
    else:
        model(*batch)


def _is_labelled(batch: Sequence[Any]) -> bool:
    last = batch[-1]
    return len(batch) == 2 and isinstance(last, Tensor) and not last.is_floating_point() and last.dim() <= 1


def _unit_axis(output: Tensor) -> int:
    return output.dim() - 1 if output.dim() <= 1 or output.dim() == 3 else 1


def _row(name: str, module: nn.Module, tally: _Tally) -> ActivationSparsity:
    assert tally.alive is not None
    return ActivationSparsity(
        name=name, kind=type(module).__name__, values=tally.values, zeros=int(tally.zeros), units=tally.alive.numel(),
        dead=int((~tally.alive).sum()),
    )  # fmt: skip
