"""Multiply-adds of a model, weight by weight, and what a training with zeros in it costs.

Counts are of the arithmetic that the zeros leave over, as the literature reports them (Evci et al. 2020,
arXiv:1911.11134, appendix H); what a machine really saves of it is measured, not counted (see `isogrid.runtime`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from isogrid.errors import UsageError
from isogrid.evaluating import call_model, evaluating, plain_attention, running_the_example
from isogrid.masks import Target, find_targets, unwrap

_COPIES = (torch.ops.aten._to_copy, torch.ops.aten.clone, torch.ops.aten.cat, torch.ops.aten.stack)
"""What lays its inputs out in other memory, perhaps in another number format."""


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations of one forward pass; a multiply-add counts as two.

    Attributes:
        layers: target name to what its weight takes part in, as if it had no zeros.
        rest: all other products of the model (attention's own, layers that are no targets).
        samples: along the first axis of the example.

    >>> FlopCount({"weight": 200}, rest=40, samples=2).dense
    240
    """

    layers: Mapping[str, int]
    rest: int
    samples: int

    @property
    def dense(self) -> int:
        """Of the model without its zeros."""
        return sum(self.layers.values()) + self.rest

    def sparse(self, densities: Mapping[str, float]) -> float:
        """With each layer at that density (target name to nonzero share; a layer that is not named is dense).

        >>> FlopCount({"weight": 200}, rest=40, samples=2).sparse({"weight": 0.1})
        60.0
        """
        return sum(flops * densities.get(name, 1.0) for name, flops in self.layers.items()) + self.rest

    def training_step(
        self, densities: Mapping[str, float], *, dense_gradients: bool, trained: Mapping[str, float] | None = None
    ) -> float:
        """Forward and backward: the forward pass, the gradient of the inputs, and that of the weights.

        The weights' gradient is needed where weights are active, or everywhere for a method that looks at the
        gradients of pruned weights at this step (`dense_gradients`), or for the shares that are `trained` (target name
        to share, as in `sparse`) where a method trains others than it uses.

        >>> count = FlopCount({"weight": 200}, rest=0, samples=2)
        >>> count.training_step({"weight": 0.1}, dense_gradients=False)
        60.0
        >>> count.training_step({"weight": 0.1}, dense_gradients=True)
        240.0
        >>> count.training_step({"weight": 0.1}, dense_gradients=False, trained={"weight": 0.2})  # Top-KAST
        80.0
        """
        forward = self.sparse(densities)
        return 2 * forward + (self.dense if dense_gradients else self.sparse(densities if trained is None else trained))


def count_flops(
    model: nn.Module, example: Tensor | Sequence[Any] | Mapping[str, Any], *, targets: Sequence[Target] | None = None
) -> FlopCount:
    """Count one forward pass of `model` on `example`, in eval mode and without gradients.

    Matrix products, convolutions, attention and recurrent layers count; elementwise work does not, as is usual.

    Args:
        model: any module; it is left as it was.
        example: a tensor, a tuple of arguments or a mapping of named ones, the batch on the first axis.
        targets: the weights that get a number of their own, see `isogrid.masks.find_targets`.

    Raises:
        UsageError: the example holds no tensor.
        UnsupportedError: the model does not run on the example.

    >>> count_flops(nn.Linear(10, 5), torch.zeros(2, 10)).layers
    {'weight': 200}
    """
    model = unwrap(model)
    listed = find_targets(model) if targets is None else targets
    parts = tree_leaves(dict(example) if isinstance(example, Mapping) else example)
    first = next((a for a in parts if isinstance(a, Tensor) and a.dim() > 0), None)
    if first is None:
        raise UsageError(
            f"The example of type {type(example).__name__} holds no tensor; accepted is a batch of inputs."
        )
    counter = _Counter(listed)
    with evaluating(model), plain_attention(), _fresh_casts(), counter.watching(model), running_the_example(), counter:
        call_model(model, example)
    return FlopCount({target.name: counter.found[target.name] for target in listed}, counter.rest, first.shape[0])


class _Counter(TorchDispatchMode):
    """Adds up the products that run, each under the targets whose storage it reads, or a copy of it."""

    def __init__(self, targets: Sequence[Target]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = {target.name: 0 for target in targets}
        self.rest = 0
        self._owners = {
            _storage(target.parameter): Counter({target.name: target.parameter.numel()}) for target in targets
        }
        self._copies: list[Tensor] = []
        self._paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.overloadpacket in _COPIES:
            self._follow(args[0] if isinstance(args[0], list | tuple) else [args[0]], out)
        if not self._paused and (flops := _flops_of(func, args, kwargs, out)):
            self._add(next((a for a in args if isinstance(a, Tensor) and _storage(a) in self._owners), None), flops)
        return out

    def _follow(self, sources: Sequence[Tensor], copy: Tensor) -> None:
        """A copy of weights, such as autocast's, and what is joined of nothing else, belong to the same targets."""
        if any(one.layout is not torch.strided for one in (*sources, copy)):  # which has no storage to know it by
            return
        owners = [self._owners.get(_storage(source)) for source in sources]
        if owners and all(owners):
            self._owners[_storage(copy)] = sum((found for found in owners if found), Counter())
            self._copies.append(copy)  # so that no other tensor takes its place in memory

    def _add(self, weight: Tensor | None, flops: int) -> None:
        if weight is None:
            self.rest += flops
            return
        owners = self._owners[_storage(weight)]
        left = owners.total()
        for name, size in owners.items():
            part = flops * size // max(left, 1)
            self.found[name] += part
            flops, left = flops - part, left - size

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Count recurrent layers as wholes: they run as one call or as many, by the platform."""
        handles: list[Any] = []

        def before(*_: Any) -> None:
            self._paused = True

        def after(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], _: Any) -> None:
            self._paused = False
            given = inputs[0] if inputs else named["input"]
            steps = given.data.shape[0] if not isinstance(given, Tensor) else given.numel() // given.shape[-1]
            for name, weight in module.named_parameters(recurse=False):
                if name.startswith("weight"):
                    known = _storage(weight) in self._owners
                    self._add(weight if known else None, 2 * weight.numel() * steps)

        for module in model.modules():
            if isinstance(module, nn.RNNBase):
                handles.append(module.register_forward_pre_hook(before))
                handles.append(module.register_forward_hook(after, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _fresh_casts() -> Iterator[None]:
    """Autocast casts each weight anew: a copy that it kept from before belongs to no known weight."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _flops_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    packet = func.overloadpacket
    if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        query, key, value = args[:3]
        return int(sdpa_flop_count(query.shape, key.shape, value.shape))
    formula = cast("Any", flop_registry.get(packet))
    return int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0
