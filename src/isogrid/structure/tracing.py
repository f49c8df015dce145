"""Running a model once on an example, and following the labels of its parameters through every operation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from isogrid.errors import UnsupportedError
from isogrid.evaluating import call_model, evaluating, plain_attention
from isogrid.structure import computing, moving  # noqa: F401 - they register their rules
from isogrid.structure.calls import Call, find_rule
from isogrid.structure.coupling import SILENT, Coupling, Use
from isogrid.structure.labels import Labels, Plane, Site, Units

Example = Tensor | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Step:
    """An operation of the trace: what is needed to run it again as if units were gone.

    Attributes:
        op: the ATen operation.
        mixing: whether missing units and zero units are not the same to it.
        inputs: the labels of its tensor arguments, in order; only where it is `mixing`.
        outputs: those of its outputs.
    """

    op: Any
    mixing: bool
    inputs: tuple[Labels, ...]
    outputs: tuple[Labels, ...]


@dataclass(eq=False)
class Trace:
    """What one run of a model has shown.

    Attributes:
        coupling: the units, and what operations asked of them.
        tensors: every parameter and buffer once, by its first name.
        parameters: the names of those that are parameters.
        sites: the labels of each axis of each of these tensors, int64 [size].
        steps: the operations in order.
        alive: for each label, whether its unit changes an output: without the others the answer is the same.
        sizes: attributes of modules that hold a size which no parameter tells: module, attribute, labels.
    """

    coupling: Coupling
    tensors: dict[str, Tensor]
    parameters: frozenset[str]
    sites: dict[Site, Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    alive: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))


@contextlib.contextmanager
def spelled_out(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, and attention spelled out in operations of its own."""
    with evaluating(model), plain_attention():
        yield


def tensors_in(answer: Any) -> list[Tensor]:
    """The tensors of an answer, in order."""
    if isinstance(answer, Tensor):
        return [answer]
    if isinstance(answer, Mapping):
        parts = list(answer.values())
    elif isinstance(answer, list | tuple):
        parts = list(answer)
    elif is_dataclass(answer):
        parts = [getattr(answer, part.name) for part in fields(answer)]
    else:
        return []
    return [tensor for part in parts for tensor in tensors_in(part)]


def trace(model: nn.Module, example: Example) -> Trace:
    """Run `model` on `example` and find out which indices of which parameters belong together.

    Raises:
        UnsupportedError: the answer holds no tensor.
    """
    tracer = _Tracer(model)
    with spelled_out(model), tracer.places(model), tracer:
        answer = call_model(model, example)
    outputs = tensors_in(answer)
    if not outputs:
        raise UnsupportedError(
            f"The model answers the example with {type(answer).__name__}, in which there is no tensor; accepted are "
            "tensors, and lists, tuples, mappings and dataclasses of them."
        )
    return tracer.finish(outputs)


class _Tracer(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._coupling = Coupling()
        self._trace = Trace(self._coupling, {}, frozenset(name for name, _ in model.named_parameters()))
        self._labels: Any = WeakTensorKeyDictionary()
        self._made_by: Any = WeakTensorKeyDictionary()
        self._reads: list[set[int]] = []
        self._writes: set[int] = set()
        self._places: list[str] = []
        self._seen: set[int] = set()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._trace.tensors[name] = tensor
            self._labels[tensor] = self._fresh(name, tensor)

    def _fresh(self, name: str, tensor: Tensor) -> Labels:
        planes = []
        for axis, size in enumerate(tensor.shape):
            ids = self._coupling.units.fresh(size)
            self._trace.sites[name, axis] = ids
            if size > 1:
                planes.append(Plane(ids.reshape([-1 if i == axis else 1 for i in range(tensor.dim())]), (name, axis)))
            else:
                self._coupling.units.freeze(ids, SILENT)
        zero = (tensor.detach() == 0).cpu()
        return Labels(tuple(tensor.shape), tuple(planes), zero if bool(zero.any()) else None)

    @contextlib.contextmanager
    def places(self, model: nn.Module) -> Iterator[None]:
        """Know which module's forward is running."""
        handles = []
        for name, module in model.named_modules():

            def enter(_: Any, __: Any, name: str = name) -> None:
                self._places.append(name)

            def leave(_: Any, __: Any, ___: Any) -> None:
                self._places.pop()

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        coupling = self._coupling
        coupling.place, coupling.step, coupling.mixing = self._place(), len(self._trace.steps), False
        call = Call(op, tuple(args), kwargs, (), coupling, self._known)
        read = call.tensors()
        self._seen.update(map(id, read))
        found = tuple(map(call.known, read))
        made = {self._made_by[tensor] for tensor in read if tensor in self._made_by}
        result = op(*args, **kwargs)
        outputs = tuple(tensors_in(result))
        self._reads.append(made)
        if op._schema.is_mutable:
            self._writes.add(coupling.step)
        call = Call(op, tuple(args), kwargs, outputs, coupling, self._known)
        labels = self._follow(call, found)
        if op._schema.is_mutable:
            self._forget_zeros(outputs)
        for output, known in zip(outputs, labels, strict=True):
            self._made_by[output] = coupling.step
            self._labels[output] = known
        inputs = found if coupling.mixing else ()
        self._trace.steps.append(Step(op, coupling.mixing, inputs, tuple(labels)))
        return result

    def _forget_zeros(self, written: Sequence[Tensor]) -> None:
        """What shares memory with a tensor that was written to may hold other numbers now."""
        storages = {tensor.untyped_storage().data_ptr() for tensor in written}
        for tensor, labels in list(self._labels.items()):
            if labels.zero is not None and tensor.untyped_storage().data_ptr() in storages:
                self._labels[tensor] = labels.without_zero()

    def _place(self) -> str:
        return (self._places[-1] if self._places else "") or "the model"

    def _known(self, tensor: Tensor) -> Labels:
        known = self._labels.get(tensor)
        return Labels(tuple(tensor.shape)) if known is None else known

    def _follow(self, call: Call, read: Sequence[Labels]) -> Sequence[Labels]:
        if not call.outputs:
            for labels in read:
                for plane in labels.planes:
                    self._coupling.use(plane)
            return ()
        rule = find_rule(call.op)
        if rule is not None:
            # An operation may be called in ways that its rule does not know: that must not end the whole trace.
            with contextlib.suppress(Exception):
                return rule(call)
        self._coupling.mixing = False
        live = [labels for labels in map(self._coupling.current, read) if labels.planes]
        for labels in live:
            self._coupling.freeze(
                labels, f"goes through {call.name} in {call.coupling.place}, for which there is no rule"
            )
        return call.plain()

    def finish(self, outputs: Sequence[Tensor]) -> Trace:
        """Settle what can only be settled when everything is known."""
        coupling, trace = self._coupling, self._trace
        for output in outputs:
            coupling.freeze(self._known(output), "reaches the model's output")
        for name, tensor in trace.tensors.items():
            if id(tensor) not in self._seen:
                for axis in range(tensor.dim()):
                    coupling.units.freeze(trace.sites[name, axis], "is not used on the example")
        _settle(coupling)
        live = self._live(outputs)
        trace.alive = _alive(coupling.units, [use for use in coupling.uses if use.step in live])
        return trace

    def _live(self, outputs: Sequence[Tensor]) -> set[int]:
        """The operations that the outputs depend on, and all that write into a tensor."""
        waiting = [*self._writes, *(self._made_by[output] for output in outputs if output in self._made_by)]
        live: set[int] = set()
        while waiting:
            step = waiting.pop()
            if step not in live:
                live.add(step)
                waiting += self._reads[step]
        return live


def _alive(units: Units, uses: Sequence[Use]) -> Tensor:
    """For each label whether its unit must stay or changes, through units that do, an output."""
    labels = torch.arange(len(units))
    of = units.find(labels)
    alive = units.frozen(labels)[of]
    before = -1
    while before != (before := int(alive.sum())):
        for use in uses:
            ids = use.ids
            if use.outputs is not None:
                wanted = alive[units.find(use.outputs)]
                changes = wanted.any().expand(len(ids)) if use.changes is None else use.changes[:, wanted].any(dim=1)
                ids = ids[changes]
            alive[units.find(ids)] = True
    return alive[of]


def _settle(coupling: Coupling) -> None:
    """Join units until each is a slab of every tensor that must stay a box, and freeze where none can be."""
    units = coupling.units
    changed = True
    while changed:
        changed = False
        for rectangle in coupling.rectangles:
            (plane,) = coupling.current(Labels(tuple(rectangle.ids.shape), (Plane(rectangle.ids),))).planes or (None,)
            if plane is None:
                continue
            held = [axis for axis in plane.axes if axis in rectangle.fixed]
            if set(held) == set(plane.axes):
                if not bool(units.frozen(plane.ids).all()):
                    units.freeze(plane.ids, f"is cut at fixed places in {rectangle.place}")
                    changed = True
            elif held or len(plane.axes) > 1:
                # As in grouped channels that are shuffled: every group loses the same places.
                units.join_along(plane.ids, held or plane.axes[:-1])
                changed = True
