"""The reference: the original model run as if units were gone, without cutting anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from isogrid.errors import UnsupportedError
from isogrid.evaluating import call_model
from isogrid.structure.labels import Labels
from isogrid.structure.tracing import Example, Step, Trace, spelled_out, tensors_in


def masked_answer(model: nn.Module, example: Example, trace: Trace, gone: Tensor) -> list[Tensor]:
    """The answer of the traced model in which every element of a unit that is gone counts as not there.

    Such elements are zero after every operation, which for sums of products is the same as absent.  Operations for
    which it is not (means, norms, softmax over units) get their operands without them.

    Raises:
        UnsupportedError: the model does other things than when it was traced.
    """
    mode = _Masked(trace, gone)
    with spelled_out(model), mode:
        answer = call_model(model, example)
    return tensors_in(answer)


class _Masked(TorchDispatchMode):
    def __init__(self, trace: Trace, gone: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps = iter(trace.steps)
        self._gone = gone

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        step = next(self._steps, None)
        if step is None or step.op is not op:
            raise UnsupportedError(
                f"The model ran {op} where it had run {step.op if step else 'nothing'} before; accepted are models "
                "that do the same for the same input."
            )
        if step.mixing and any(self._lost(labels) for labels in step.inputs):
            result = self._without(step, args, kwargs or {})
        else:
            result = op(*args, **(kwargs or {}))
        if not _is_view(op):
            for output, labels in zip(tensors_in(result), step.outputs, strict=True):
                if output.is_floating_point():
                    for plane in self._lost(labels):
                        output.masked_fill_(plane.to(output.device), 0)
        return result

    def _lost(self, labels: Labels) -> list[Tensor]:
        """Where elements are gone, one boolean tensor a plane that has lost any."""
        found = (self._gone[plane.ids] for plane in labels.planes)
        return [lost for lost in found if bool(lost.any())]

    def _kept(self, labels: Labels) -> Iterator[tuple[int, Tensor]]:
        """For each axis that has lost places, those that are left."""
        for lost in self._lost(labels):
            for axis, size in enumerate(lost.shape):
                if size > 1:
                    others = [other for other in range(lost.dim()) if other != axis]
                    kept = (~lost).any(dim=others) if others else ~lost
                    yield axis, kept.nonzero().flatten()

    def _without(self, step: Step, args: Any, kwargs: Any) -> Any:
        inputs = iter(step.inputs)

        def small(value: Any) -> Any:
            if isinstance(value, Tensor):
                for axis, kept in self._kept(next(inputs)):
                    value = value.index_select(axis, kept.to(value.device))
            return value

        args, kwargs = pytree.tree_map(small, (list(args), kwargs))
        if "normalized_shape" in (names := [argument.name for argument in step.op._schema.arguments]):
            at = names.index("normalized_shape")
            args[at] = list(args[0].shape[-len(args[at]) :])
        if step.op.overloadpacket.__name__ == "native_group_norm":
            args[names.index("C")] = args[0].shape[1]
        result = step.op(*args, **kwargs)
        outputs = iter(step.outputs)

        def whole(value: Any) -> Any:
            if isinstance(value, Tensor):
                labels = next(outputs)
                for axis, kept in self._kept(labels):
                    shape = [labels.shape[axis] if i == axis else size for i, size in enumerate(value.shape)]
                    value = value.new_zeros(shape).index_copy(axis, kept.to(value.device), value)
            return value

        return pytree.tree_map(whole, result)


def _is_view(op: Any) -> bool:
    """Whether the outputs share memory with what was there before; they are masked already."""
    returns = [returned.alias_info for returned in op._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returns)
