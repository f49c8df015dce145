"""What happens to one target's gradient between ``backward`` and the optimiser's step."""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from isogrid.errors import SparsifierError
from isogrid.sparsify.state import SparseLayer, mask_gradient_


class GradientGate:
    """Zeroes the gradient of pruned weights right after ``backward`` has accumulated it, and keeps what a method needs.

    Masking cannot wait for the step: whoever clips gradients before it would count the pruned ones.  So a method that
    wants them (revival, growth) gets a copy that is taken here, of this rank's gradient, and reduced when it is
    delivered.
    """

    def __init__(self, layer: SparseLayer, scaler: Any, group: dist.ProcessGroup | None) -> None:
        self._layer = layer
        self._scaler = scaler
        self._group = group
        self._keeps_dense = False
        self._dense: Tensor | None = None
        self._last: weakref.ref[Tensor] | None = None

    def register(self) -> list[Any]:
        """Put the hook on the parameter.  A frozen parameter has no gradient and needs none.

        Raises:
            SparsifierError: another sparsifier is attached to the parameter.
        """
        parameter = self._layer.target.parameter
        if not parameter.requires_grad:
            return []
        for hook in (parameter._post_accumulate_grad_hooks or {}).values():
            if isinstance(getattr(hook, "__self__", None), GradientGate):
                raise SparsifierError(
                    f"Another sparsifier is attached to {self._layer.name}; finalize() or detach() it before a second one."
                )
        return [parameter.register_post_accumulate_grad_hook(self._accumulated)]

    def open(self, *, dense: bool) -> None:
        """Get ready for the step that comes next."""
        self._keeps_dense, self._dense, self._last = dense, None, None

    def _accumulated(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        if self._keeps_dense and not gradient.is_sparse:
            self._keep(gradient)
        mask_gradient_(parameter, self._layer.pruned)

    def _keep(self, gradient: Tensor) -> None:
        """Accumulate the gradient before it is masked.

        At pruned places ``gradient`` holds this batch's alone (what came before was masked), at active ones the sum.
        A gradient object that is not the last one means that the loop dropped what it had (``zero_grad`` without a
        step, as after a skipped one).
        """
        same = self._last is not None and self._last() is gradient
        kept = gradient.detach().clone()
        if same and self._dense is not None:
            kept += self._dense.masked_fill(self._layer.mask, 0)
        self._dense, self._last = kept, weakref.ref(gradient)

    def deliver(self, *, dense: bool, scale: float) -> None:
        """Set ``layer.gradient`` for the method: reduced over ranks and unscaled."""
        gradient = self._layer.target.parameter.grad
        if gradient is None:
            self._layer.gradient = None
            return
        gradient = gradient.detach() if scale == 1.0 else gradient.detach() / scale
        if not dense or self._dense is None:
            self._layer.gradient = gradient
            return
        hidden = self._dense
        if self._group is not None and dist.get_world_size(self._group) > 1:
            dist.all_reduce(hidden, group=self._group)
            hidden /= dist.get_world_size(self._group)
        if self._scaler is not None and self._scaler.is_enabled():
            hidden = hidden / self._scaler.get_scale()
        elif scale != 1.0:
            hidden = hidden / scale
        # Active places show what the optimiser sees (clipped, if the loop clips); only pruned ones come from the copy.
        self._layer.gradient = torch.where(self._layer.pruned, hidden, gradient)
