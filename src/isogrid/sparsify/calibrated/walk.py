"""From layer to layer through a model: each sees its inputs as they are once all before it are pruned.

Only the inputs of one part of the model are kept at a time, such as those of one transformer block, and second moments
only for the layers that are pruned next.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from isogrid.sparsify.calibrated.calls import Call, Watch
from isogrid.sparsify.calibrated.moments import Moments
from isogrid.sparsify.calibrated.trace import Link, Part, Trace
from isogrid.sparsify.state import SparseLayer

Runs = Sequence[Callable[[], Any]]
Inputs = list[tuple[tuple[Any, ...], dict[str, Any]]]
Visit = Callable[[list[SparseLayer], Tensor], None]

AT_ONCE = 8
"""Groups of layers up to which a part is not divided but run anew for each group, which keeps fewer inputs."""


class _Stop(BaseException):
    """Ends a forward pass of which no more is needed.  No ``Exception``, lest a model's own code catch it."""


class Walk:
    """Visits the groups of a trace in order of execution, with the second moments of their inputs.

    ``visit(layers, moments)`` may change the layers' weights; whatever comes later sees the change.
    """

    def __init__(self, trace: Trace, layers: Sequence[SparseLayer], visit: Visit, *, diagonal: bool) -> None:
        self._trace, self._visit, self._diagonal = trace, visit, diagonal
        self._layers = {layer.name: layer for layer in layers}

    def through(self, runs: Runs) -> None:
        """Go through the whole model; each of `runs` runs it on one batch."""
        self._process(self._trace.root, runs)

    def _process(self, part: Part, runs: Runs) -> None:
        groups = self._groups_in(part)
        if len(groups) > AT_ONCE and part.divisible:
            self._divide(part, runs)
            return
        for group in groups:
            self._visit(group, self._moments(group[0], runs))

    def _groups_in(self, part: Part) -> list[list[SparseLayer]]:
        targets = part.targets & self._layers.keys()
        kept = [[self._layers[name] for name in group if name in targets] for group in self._trace.groups]
        return [group for group in kept if group]

    # -- a part in pieces --------------------------------------------------------------------------------------------

    def _divide(self, part: Part, runs: Runs) -> None:
        inputs: Inputs = []
        at: int | None = None
        for index, child in enumerate(part.children):
            if not self._groups_in(child):
                continue
            links = [part.children[i].link for i in range(at + 1, index + 1)] if at is not None else [None]
            if at is not None and all(link is not None for link in links):
                for i in range(at, index):
                    _advance(part.children[i], part.children[i + 1].link, inputs)
            else:
                inputs.clear()
                inputs.extend(_arrivals(child, runs))
            self._process(child, [_runner(child, one) for one in inputs])
            at = index

    # -- a part as a whole -------------------------------------------------------------------------------------------

    def _moments(self, layer: SparseLayer, runs: Runs) -> Tensor:
        """Run the part up to the last application of a layer's weight, on every batch."""
        counts = set(self._trace.counts[layer.name])
        last = counts.pop() if len(counts) == 1 else None
        dtype = torch.float64 if layer.weight.dtype == torch.float64 else torch.float32
        moments = Moments(layer.name, layer.weight.shape[layer.target.output_axis], dtype, diagonal=self._diagonal)
        for run in runs:
            calls = 0

            def seen(call: Call) -> None:
                nonlocal calls
                calls += 1
                moments.add(call)
                if calls == last:
                    raise _Stop

            with Watch([layer], seen):
                _until_stopped(run)
        return moments.total


def _until_stopped(run: Callable[[], Any]) -> bool:
    """Run, and say whether it was stopped."""
    try:
        run()
    except _Stop:
        return True
    return False


def _arrivals(part: Part, runs: Runs) -> Inputs:
    """The arguments with which a part is called in each run."""
    found: Inputs = []

    def arrive(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        found.append((args, kwargs))
        raise _Stop

    assert part.module is not None
    handle = part.module.register_forward_pre_hook(arrive, with_kwargs=True)
    try:
        for run in runs:
            _until_stopped(run)
    finally:
        handle.remove()
    return found


def _advance(part: Part, link: Link | None, inputs: Inputs) -> None:
    """Run a part and put what the next is called with in the place of its arguments."""
    assert part.module is not None
    assert link is not None
    for i, given in enumerate(inputs):
        # The copies, not the originals: a part that writes to its arguments means the next to see it.
        args, kwargs = copied(given)
        answer = part.module(*args, **kwargs)
        inputs[i] = link.follow(pytree.tree_leaves((args, kwargs)), answer)


def _runner(part: Part, given: tuple[tuple[Any, ...], dict[str, Any]]) -> Callable[[], Any]:
    assert part.module is not None
    return functools.partial(_run, part.module, given)


def _run(module: nn.Module, given: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    args, kwargs = copied(given)
    return module(*args, **kwargs)


def copied(tree: Any) -> Any:
    """`tree` with its tensors copied, for a part may write to what it is given and is run more than once."""
    copies: dict[int, Tensor] = {}

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in copies:
            copies[id(leaf)] = leaf.clone()
        return copies[id(leaf)]

    return pytree.tree_map(copy, tree)
