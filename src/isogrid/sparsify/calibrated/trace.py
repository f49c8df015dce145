"""What a model does with the data: which parts run in which order and which weights meet which inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from isogrid.errors import DataError, UnsupportedError
from isogrid.sparsify.calibrated.calls import Call, Watch, version_of
from isogrid.sparsify.state import SparseLayer

_CONSTANTS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Link:
    """How a part's arguments follow from the call of the part before it.

    Attributes:
        spec: how the arguments nest.
        sources: for each leaf ``("answer", i)``, the i-th leaf of what the part before answered, ``("argument", i)``,
            the i-th of its own arguments, or ``("constant", value)``.
    """

    spec: Any
    sources: tuple[tuple[str, Any], ...]

    def follow(self, arguments: Sequence[Any], answer: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments (positional and named) of this part."""
        answers = pytree.tree_leaves(answer)
        leaves = [
            answers[at] if kind == "answer" else arguments[at] if kind == "argument" else at
            for kind, at in self.sources
        ]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return args, kwargs


@dataclass(eq=False)
class Part:
    """One module's turn in the forward pass; the root stands for the pass as a whole.

    Attributes:
        module: None at the root.
        link: how its arguments follow from the part before it under the same parent, or None where they do not.
        children: the parts that it runs, in order.
        own: targets whose weights it applies itself, or that it is not known which child applies.
        uniform: whether every batch runs the same children.
    """

    module: nn.Module | None
    link: Link | None = None
    children: list[Part] = field(default_factory=list)
    own: set[str] = field(default_factory=set)
    uniform: bool = True

    @property
    def targets(self) -> set[str]:
        """All targets whose weights are applied in here."""
        return self.own.union(*(child.targets for child in self.children))

    @property
    def divisible(self) -> bool:
        """Whether each target belongs to one child that runs once, so that the children can be taken one by one."""
        if self.own or not self.uniform:
            return False
        bearing = [child for child in self.children if child.targets]
        modules = [child.module for child in self.children]
        once = all(modules.count(child.module) == 1 for child in bearing)
        return once and sum(len(child.targets) for child in bearing) == len(self.targets)

    def merge(self, other: Part) -> None:
        """Take over what differs in another batch."""
        if self.link != other.link:
            self.link = None
        self.own |= other.own
        alike = [child.module for child in self.children] == [child.module for child in other.children]
        if not (alike and self.uniform and other.uniform):
            self.own |= self.targets | other.targets
            self.children, self.uniform = [], False
            return
        for mine, its in zip(self.children, other.children, strict=True):
            mine.merge(its)


@dataclass(eq=False)
class Trace:
    """What is known of the forward passes over all batches.

    Attributes:
        root: the passes, merged.
        groups: targets that always see the very same inputs, in the order in which they see them first.
        counts: for each target how often each batch applies it.
        norms: for each target the norms ``[K]`` of its inputs over all rows of all batches, if they were asked for.
    """

    root: Part
    groups: list[list[str]]
    counts: dict[str, list[int]]
    norms: dict[str, Tensor]


class Tracer:
    """Runs the model on batches and takes down a `Trace`."""

    def __init__(self, model: nn.Module, layers: Sequence[SparseLayer], *, norms: bool) -> None:
        self._model, self._layers = model, layers
        self._wants_norms = norms
        self._counts: dict[str, list[int]] = {layer.name: [] for layer in layers}
        self._leaders: dict[str, list[str]] = {layer.name: [] for layer in layers}
        self._order: dict[str, None] = {}
        self._norms: dict[str, Tensor] = {}

    def trace(self, runs: Sequence[Callable[[], Any]]) -> Trace:
        """Run all batches.

        Raises:
            DataError: an input of a target is not finite.
            UnsupportedError: a target met no input.
        """
        root: Part | None = None
        for run in runs:
            seen = self._pass(run)
            if root is None:
                root = seen
            else:
                root.merge(seen)
        assert root is not None
        if missed := [layer.name for layer in self._layers if layer.name not in self._order]:
            raise UnsupportedError(
                f"{', '.join(missed)} met no input in a linear layer or convolution while the model ran on the data; "
                "give data that reaches every target, or leave these out with ignore=."
            )
        return Trace(root, self._groups(), self._counts, {name: x.sqrt() for name, x in self._norms.items()})

    def _groups(self) -> list[list[str]]:
        groups: dict[str, list[str]] = {}
        for name in self._order:
            leaders = set(self._leaders[name])
            leader = next(iter(leaders))
            shares = len(leaders) == 1 and leader in groups and self._counts[leader] == self._counts[name]
            groups.setdefault(leader if shares else name, []).append(name)
        return list(groups.values())

    def _pass(self, run: Callable[[], Any]) -> Part:
        """One batch."""
        root = Part(None)
        stack = [root]
        # Of the part that ran last under each open one: its arguments and its answer, to find them again in the next.
        before: list[tuple[list[_Known], list[_Known]] | None] = [None]
        arguments: list[list[Any]] = []
        last: list[tuple[Call, int, str]] = []
        for counts in self._counts.values():
            counts.append(0)

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            leaves, spec = pytree.tree_flatten((args, kwargs))
            previous = before[-1]
            part = Part(module, None if previous is None else _link(leaves, spec, *previous))
            stack[-1].children.append(part)
            stack.append(part)
            before.append(None)
            arguments.append(leaves)

        def leave(module: nn.Module, args: Any, kwargs: Any, answer: Any) -> None:  # noqa: ARG001
            stack.pop()
            before.pop()
            before[-1] = (_known(arguments.pop()), _known(pytree.tree_leaves(answer)))

        def seen(call: Call) -> None:
            name = call.layer.name
            stack[-1].own.add(name)
            self._counts[name][-1] += 1
            self._order.setdefault(name)
            shared = bool(last) and _same_input(call, *last[0][:2])
            leader = last[0][2] if shared else name
            self._leaders[name].append(leader)
            if not shared:
                last[:] = [(call, call.version, name)]
                if not bool(torch.isfinite(call.inputs).all()):
                    raise DataError(
                        f"The input of {name} on the data is not finite; only finite inputs can be calibrated on, so "
                        "look for NaN in the data or overflow in the model."
                    )
            if self._wants_norms:
                self._add_norms(call)

        handles = []
        for module in self._model.modules():
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
        try:
            with Watch(self._layers, seen):
                run()
        finally:
            for handle in handles:
                handle.remove()
        return root

    def _add_norms(self, call: Call) -> None:
        for portion in call.geometry.rows(call.inputs):
            squares = portion.float().square().sum(dim=1)
            known = self._norms.get(call.layer.name)
            self._norms[call.layer.name] = squares if known is None else known + squares


def _same_input(call: Call, other: Call, version: int) -> bool:
    same = call.inputs is other.inputs and call.version == version and call.geometry == other.geometry
    return same and call.whole and other.whole and call.layer is not other.layer


_Known = tuple[Any, int]
"""An object and, of a tensor, a number that changes when it is written to."""


def _known(leaves: list[Any]) -> list[_Known]:
    return [(leaf, version_of(leaf) if isinstance(leaf, Tensor) else 0) for leaf in leaves]


def _link(leaves: list[Any], spec: Any, arguments: list[_Known], answers: list[_Known]) -> Link | None:
    """How `leaves` follow from what the part before was given and answered; None where one of them does not."""
    sources: list[tuple[str, Any]] = []
    for leaf in leaves:
        if isinstance(leaf, _CONSTANTS):
            sources.append(("constant", leaf))
        elif (at := _index(leaf, answers)) is not None:
            sources.append(("answer", at))
        elif (at := _index(leaf, arguments)) is not None:
            sources.append(("argument", at))
        else:
            return None
    return Link(spec, tuple(sources))


def _index(leaf: Any, among: list[_Known]) -> int | None:
    """Where `leaf` is, if nobody has written to it since."""
    ((_, version),) = _known([leaf])
    return next((i for i, (other, known) in enumerate(among) if other is leaf and known == version), None)
