"""What happens to one target's gradient between ``backward`` and the optimiser's step."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isogrid.errors import SparsifierError
from isogrid.sparsify.by_rows import ByRows
from isogrid.sparsify.ranks import Ranks
from isogrid.sparsify.state import SparseLayer
from isogrid.sparsify.touched import is_zero, keep_


class GradientGate:
    """Zeroes the gradient that is of no use right after ``backward`` has accumulated it, and keeps what a method needs.

    Of use is where `used` says True, most often the active places; None is everywhere.

    Masking cannot wait for the step: whoever clips gradients before it would count the pruned ones.  So a method that
    wants them (revival, growth) gets a copy that is taken here, of this rank's gradient, and reduced when it is
    delivered.  With a gradient scaler such a copy must be finite: a gradient that overflowed anywhere is left as it is,
    for the scaler to see it, skip the step and lower its scale, as it does in dense training.

    A sparse gradient stays sparse, where `by_rows` admits it: only what it holds is looked at.
    """

    def __init__(
        self,
        layer: SparseLayer,
        scaler: Any,
        ranks: Ranks,
        used: Callable[[SparseLayer], Tensor | None],
        by_rows: ByRows,
    ) -> None:
        self._layer = layer
        self._by_rows = by_rows
        self._used = used
        self._scaler = scaler
        self._ranks = ranks
        self._handle: Any = None
        self._keeps_dense = False
        self._dense: Tensor | None = None
        self._last: weakref.ref[Tensor] | None = None
        self._version = 0

    def register(self) -> None:
        """Put the hook on the parameter, unless it is there or the parameter is frozen: then there is no gradient.

        Raises:
            SparsifierError: another sparsifier is attached to the parameter.
        """
        parameter = self._layer.target.parameter
        if self._handle is not None or not parameter.requires_grad:
            return
        for hook in (parameter._post_accumulate_grad_hooks or {}).values():
            if isinstance(getattr(hook, "__self__", None), GradientGate):
                raise SparsifierError(
                    f"Another sparsifier is attached to {self._layer.name}; finalize() or detach() it before a second "
                    "one."
                )
        self._handle = parameter.register_post_accumulate_grad_hook(self._accumulated)
        if parameter.grad is not None:
            # What was accumulated before the hook was there.
            self._mask_(parameter.grad)

    def close(self) -> None:
        """Take the hook off."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def open(self, *, dense: bool) -> None:
        """Get ready for the step that comes next."""
        self._keeps_dense, self._dense, self._last = dense, None, None

    @property
    def dropped(self) -> bool:
        """Whether the loop has dropped the gradient that came last, as it does where a scaler skips the step.

        Then another gradient object is there or none, or the object was written to and holds nothing but zeros
        (``zero_grad(set_to_none=False)``).
        """
        gradient = self._layer.target.parameter.grad
        if self._last is None or gradient is None or self._last() is not gradient:
            return True
        return gradient._version != self._version and is_zero(gradient)

    def _accumulated(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        if self._keeps_dense:
            self._keep(gradient)
            if self._overflowed:
                self._last, self._version = weakref.ref(gradient), gradient._version
                return
        self._mask_(gradient)

    def _keep(self, gradient: Tensor) -> None:
        """Accumulate the gradient before it is masked.

        At pruned places ``gradient`` holds this batch's alone (what came before was masked), at active ones the sum.
        Another object than the last, or one that was written to in between, means that the loop dropped what it had
        (``zero_grad`` without a step, as after a skipped one).
        """
        same = self._last is not None and self._last() is gradient and gradient._version == self._version + 1
        kept = gradient.detach().clone()
        if same and self._dense is not None:
            kept += self._dense.masked_fill(self._layer.mask, 0)
        self._dense = kept

    @property
    def _overflowed(self) -> bool:
        scaled = self._scaler is not None and self._scaler.is_enabled()
        return scaled and self._dense is not None and not bool(torch.isfinite(self._dense).all())

    def _mask_(self, gradient: Tensor) -> None:
        """Zeros where it is of no use (a product with a mask would keep NaN and infinity)."""
        if gradient.is_sparse:
            self._by_rows.admit(self._layer)
        used = self._used(self._layer)
        if used is not None:
            keep_(gradient, used)
        self._last, self._version = weakref.ref(gradient), gradient._version

    def deliver(self, *, dense: bool, scale: float) -> None:
        """Set ``layer.gradient`` for the method: reduced over ranks and unscaled."""
        gradient = self._layer.target.parameter.grad
        if gradient is None:
            self._layer.gradient = None
            return
        gradient = gradient.detach() if scale == 1.0 else gradient.detach() / scale
        if gradient.is_sparse:
            gradient = gradient.to_dense()  # only at topology updates, which pass over the table anyway
        if not dense or (self._dense is None and self._ranks.alone):
            self._layer.gradient = gradient
            return
        # A rank whose batch did not reach the parameter has nothing to add, but takes part in the mean.
        hidden = self._ranks.mean_(torch.zeros_like(gradient) if self._dense is None else self._dense)
        if self._scaler is not None and self._scaler.is_enabled():
            hidden = hidden / self._scaler.get_scale()
        elif scale != 1.0:
            hidden = hidden / scale
        # Active places show what the optimiser sees (clipped, if the loop clips); only pruned ones come from the copy.
        self._layer.gradient = torch.where(self._layer.mask, gradient, hidden)


def skipped(optimizer: torch.optim.Optimizer | None) -> bool:
    """Whether a gradient scaler told a fused optimiser to leave the weights alone; its hooks are called even so."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.max() > 0)


def fused_scale(optimizer: torch.optim.Optimizer | None) -> float:
    """The factor by which a fused optimiser's gradients are still scaled; 1 where they are not."""
    scale = getattr(optimizer, "grad_scale", None)
    return float(scale) if isinstance(scale, Tensor) else 1.0
