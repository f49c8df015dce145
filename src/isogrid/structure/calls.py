"""One operation as a rule sees it, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isogrid.structure.coupling import Coupling
from isogrid.structure.labels import Labels


@dataclass(frozen=True, eq=False)
class Call:
    """An operation that has run.

    Attributes:
        op: the ATen operation, such as ``torch.ops.aten.add.Tensor``.
        args, kwargs: what it got.
        outputs: the tensors that it gave back.
        coupling: the state of the trace.
        known: the labels of a tensor; for one that the trace has not seen, labels without planes.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    coupling: Coupling
    known: Callable[[Tensor], Labels]

    @property
    def name(self) -> str:
        """The operation without its overload, such as ``add``."""
        return str(self.op.overloadpacket.__name__)

    def labels(self, tensor: Any) -> Labels | None:
        """The labels of an argument by the units of now; None for what is no tensor."""
        return self.coupling.current(self.known(tensor)) if isinstance(tensor, Tensor) else None

    def of(self, index: int) -> Labels:
        """The labels of a positional argument that is a tensor."""
        labels = self.labels(self.args[index])
        assert labels is not None, f"{self.op} got no tensor at {index}"
        return labels

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by its name in the operation's schema."""
        for index, declared in enumerate(self.op._schema.arguments):
            if declared.name == name:
                if index < len(self.args):
                    return self.args[index]
                return self.kwargs.get(name, declared.default_value if declared.has_default_value() else default)
        return default

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, also those in lists."""
        found: list[Tensor] = []
        for value in (*self.args, *self.kwargs.values()):
            listed = value if isinstance(value, list | tuple) else [value]
            found += [item for item in listed if isinstance(item, Tensor)]
        return found

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an output."""
        return tuple(self.outputs[index].shape)

    def plain(self) -> list[Labels]:
        """Outputs of which nothing is known."""
        return [Labels(tuple(output.shape)) for output in self.outputs]

    def first(self, labels: Labels) -> list[Labels]:
        """`labels` for the first output; of further ones nothing is known."""
        return [labels, *self.plain()[1:]]


Rule = Callable[[Call], Sequence[Labels]]
_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of the operations of these names."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def find_rule(op: Any) -> Rule | None:
    """The rule of an operation, or None.  Whatever PyTorch calls pointwise follows the rule ``pointwise``."""
    name = op.overloadpacket.__name__
    found = _RULES.get(name) or _RULES.get(name.removesuffix("_"))
    return _RULES["pointwise"] if found is None and torch.Tag.pointwise in op.tags else found


def moved(call: Call, labels: Labels, *, keep_site: bool = False) -> list[Labels]:
    """The labels of all outputs of an operation that only moves the elements of its first argument."""
    count = len(call.outputs)
    rest, named = pytree.tree_map_only(Tensor, Tensor.cpu, (call.args[1:], dict(call.kwargs)))  # where labels are

    def change(index: int) -> Callable[[Tensor], Tensor]:
        def run(tensor: Tensor) -> Tensor:
            result = call.op(tensor, *rest, **named)
            return cast(Tensor, result if isinstance(result, Tensor) else result[index])

        return run

    return [labels.map(change(index), call.shape(index), keep_site=keep_site) for index in range(count)]
