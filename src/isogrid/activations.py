"""Sparse activations: functions whose output is exactly zero wherever the input is not large enough.

A zero that leaves an activation is a product that the next layer need not compute.  The functions are plain tensor
operations, so that ``torch.compile``, ``torch.export`` and the ONNX exporter see through them.  Their gradient is zero
where the output was set to zero, and NaN goes through, so that a training which has diverged is seen to have.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.errors import UsageError
from isogrid.patterns import active_count

# A batch's quantile is read from at most this many values: the share is then known to within 0.2 % (one standard
# deviation at 50 %), at a small part of what the layer before costs.
_SAMPLE = 1 << 16


def sparse_relu(x: Tensor, threshold: float | Tensor = 0.0) -> Tensor:
    """``x`` where ``x > threshold``, else 0; a threshold of 0 is plain ReLU.

    Unlike a ReLU with a negative bias, what passes is not shifted: the function jumps from 0 to ``threshold``.

    Args:
        x: a floating tensor of any shape.
        threshold: a finite number >= 0 in units of ``x``, or a tensor that broadcasts against it (one for each channel,
            say).  A tensor is taken as it is, since reading it would break tracing.

    Returns:
        A tensor of the shape and dtype of ``x``.

    Raises:
        UsageError: ``x`` is not floating, or ``threshold`` is negative or not finite.  Below zero negative values would
            pass, and the function would be no ReLU.

    >>> sparse_relu(torch.tensor([-1.0, 0.2, 0.5, 2.0]), threshold=0.5)
    tensor([0., 0., 0., 2.])
    """
    _check_floating("sparse_relu", x)
    if not isinstance(threshold, Tensor):
        threshold = _checked_threshold("sparse_relu", threshold)
        if threshold == 0:
            return torch.relu(x)
    # Asking where x fails to pass, rather than where it passes, is what lets NaN through.  Autograd keeps the mask
    # alone, a byte an element.
    return x.masked_fill(x <= threshold, 0)


def sparse_tanh(x: Tensor, threshold: float | Tensor) -> Tensor:
    """``tanh(x)`` where ``|x| > threshold``, else 0.

    Args:
        x: a floating tensor of any shape.
        threshold: a finite number >= 0 in units of ``x`` (not of its tanh), or a tensor that broadcasts against ``x``,
            taken as it is.

    Returns:
        A tensor of the shape and dtype of ``x``.

    Raises:
        UsageError: ``x`` is not floating, or ``threshold`` is negative or not finite.

    >>> sparse_tanh(torch.tensor([-2.0, 0.3, 1.0]), threshold=0.5)
    tensor([-0.9640,  0.0000,  0.7616])
    """
    _check_floating("sparse_tanh", x)
    if not isinstance(threshold, Tensor):
        threshold = _checked_threshold("sparse_tanh", threshold)
        if threshold == 0:  # plain tanh, also in its gradient at 0
            return torch.tanh(x)
    else:
        threshold = torch.where(threshold > 0, threshold, math.nan)  # beside which nothing is small
    small = (x <= threshold) & (x >= -threshold)
    # tanh(0) = 0, so the fill may come first: autograd then keeps the output, which the next layer keeps anyway,
    # instead of a second tensor.
    return torch.tanh(x.masked_fill(small, 0))


def top_k(x: Tensor, k: int | float, dim: int = -1) -> Tensor:
    """Keep the ``k`` largest values along ``dim`` and set the rest to 0: k winners take all.

    Largest by value, not by magnitude, and without competition between samples (Makhzani and Frey 2013, "k-Sparse
    Autoencoders", arXiv:1312.5663; Ahmad and Scheinkman 2019, "How Can We Be So Dense?", arXiv:1903.11257, there with a
    boosting term that this function leaves out).  A winner may be negative: put a ReLU before it where that is
    unwanted.  Exactly ``k`` win; of equal values the one of lower index does.  NaN wins over everything, and all of it
    passes.

    Args:
        x: a floating tensor of one axis or more.
        k: how many win: an ``int`` from 1 to the length of ``dim``, or a ``float`` from 0 to 1 for that share of it,
            rounded down but at least 1 (so that the sparsity asked is the least one gets).
        dim: the axis along which values compete.

    Returns:
        A tensor of the shape and dtype of ``x``.

    Raises:
        UsageError: ``x`` is not floating or has no axis ``dim``, or ``k`` is out of range.

    >>> top_k(torch.tensor([3.0, -1.0, 3.0, 2.0]), k=2)
    tensor([3., 0., 3., 0.])
    >>> top_k(torch.tensor([1.0, 1.0, 1.0, 1.0]), k=0.25)
    tensor([1., 0., 0., 0.])
    """
    _check_floating("top_k", x)
    if not -x.dim() <= dim < x.dim():
        raise UsageError(f"top_k got dim={dim} for a tensor of {x.dim()} axes; accepted is one of its axes.")
    winners = _winners(_checked_k("top_k", k), x.shape[dim])
    last = torch.topk(x.detach(), winners, dim=dim).values.narrow(dim, winners - 1, 1)
    above = (x > last) | x.isnan()
    level = x == last
    free = winners - above.sum(dim, keepdim=True, dtype=torch.int32)
    kept = above | (level & (level.cumsum(dim, dtype=torch.int32) <= free))
    return x.masked_fill(~kept, 0)


class _Thresholded(nn.Module, ABC):
    """An activation with one threshold: given, or calibrated in training and frozen in eval."""

    threshold: float | Tensor
    count: Tensor

    def __init__(self, threshold: float = 0.0, *, target_sparsity: float | None = None, momentum: float = 0.05) -> None:
        super().__init__()
        owner = type(self).__name__
        threshold = _checked_threshold(owner, threshold)
        if target_sparsity is not None:
            _check_open_fraction(owner, target_sparsity)
            if threshold != 0:
                raise UsageError(
                    f"{owner} got threshold={threshold:g} and target_sparsity={target_sparsity:g}; accepted is one of "
                    "them, since a target finds the threshold."
                )
        if not _is_number(momentum) or not 0 < momentum <= 1:
            raise UsageError(f"{owner} got momentum={momentum!r}; accepted is a number above 0, up to 1.")
        self.target_sparsity = target_sparsity
        self.momentum = float(momentum)
        if target_sparsity is None:
            # A given threshold is an option, not a state: models with ReLU and with SparseReLU exchange state_dicts.
            self.threshold = threshold
        else:
            self.register_buffer("threshold", torch.tensor(0.0))
            self.register_buffer("count", torch.tensor(0))

    @abstractmethod
    def _ranked(self, x: Tensor) -> Tensor:
        """Return what is compared with the threshold."""

    @abstractmethod
    def _cut(self, x: Tensor) -> Tensor:
        """Apply the function at the threshold that holds now."""

    def forward(self, x: Tensor) -> Tensor:
        """Calibrate, in training and where there is a target, then apply the function."""
        if self.training and self.target_sparsity is not None and x.numel():
            self._calibrate(x.detach(), self.target_sparsity)
        return self._cut(x)

    def _calibrate(self, x: Tensor, target_sparsity: float) -> None:
        assert isinstance(self.threshold, Tensor)  # a module with a target holds a buffer
        sample = self._ranked(_thinned(x))
        rank = sample.numel() - active_count(sample.numel(), target_sparsity)
        quantile = sample.kthvalue(rank).values.clamp(min=0).to(self.threshold.dtype)
        # The first batches weigh the same, so that the start at zero leaves no trace.  A batch that is not finite, as
        # when a gradient scaler probes for its scale, is left out.  All stays on the device: nothing here waits for it.
        usable = quantile.isfinite()
        weight = (1 / (self.count + 1)).clamp(min=self.momentum)
        moved = torch.lerp(self.threshold, quantile, weight.to(quantile.dtype))
        self.threshold.copy_(torch.where(usable, moved, self.threshold))
        self.count.add_(usable)

    def extra_repr(self) -> str:
        """Return the options and, where it is calibrated, the threshold reached."""
        if self.target_sparsity is None:
            return f"threshold={float(self.threshold):g}"
        return (
            f"target_sparsity={self.target_sparsity:g}, momentum={self.momentum:g}, "
            f"threshold={float(self.threshold):.4g} after {int(self.count)} batches"
        )


class SparseReLU(_Thresholded):
    """`sparse_relu` as a module, with a given threshold or a wanted share of zeros.

    With ``target_sparsity`` the threshold is a running estimate of that quantile of the input, never below 0: each
    training batch moves it by ``momentum`` towards its own quantile, then passes through.  Eval leaves it as it is.
    Where inputs alone are at most zero more often than asked, the threshold stays 0 and the output is sparser.  The
    estimate lives in the buffers ``threshold`` and ``count``, which are saved, copied and, under
    ``DistributedDataParallel``, broadcast from rank 0 as the running statistics of a batch norm are; also like theirs,
    it moves twice where activation checkpointing computes a forward pass twice.  A module with a given threshold has no
    buffers.

    Args:
        threshold: a finite number >= 0 in units of the input; 0 is plain ReLU.
        target_sparsity: the share of outputs that shall be exactly zero, between 0 and 1, instead of a threshold.
        momentum: the weight of the newest batch, above 0, up to 1.

    Shapes: any floating tensor in, the same shape and dtype out.

    Raises:
        UsageError: an option out of range, or both a threshold and a target.

    >>> _ = torch.manual_seed(0)
    >>> activation = SparseReLU(target_sparsity=0.9)
    >>> for _ in range(100):
    ...     _ = activation(torch.randn(256, 64))
    >>> activation
    SparseReLU(target_sparsity=0.9, momentum=0.05, threshold=1.282 after 100 batches)
    >>> share = (activation.eval()(torch.randn(256, 64)) == 0).float().mean()
    >>> round(float(share), 2)
    0.9
    """

    def _ranked(self, x: Tensor) -> Tensor:
        return x

    def _cut(self, x: Tensor) -> Tensor:
        return sparse_relu(x, self.threshold)


class SparseTanh(_Thresholded):
    """`sparse_tanh` as a module, with a given threshold or a wanted share of zeros.

    As `SparseReLU`, with the quantile of ``|x|``.

    Args:
        threshold: a finite number >= 0 in units of the input; 0 is plain tanh.
        target_sparsity: the share of outputs that shall be exactly zero, between 0 and 1, instead of a threshold.
        momentum: the weight of the newest batch, above 0, up to 1.

    Shapes: any floating tensor in, the same shape and dtype out.

    Raises:
        UsageError: an option out of range, or both a threshold and a target.

    >>> SparseTanh(threshold=0.5)
    SparseTanh(threshold=0.5)
    >>> SparseTanh(0.5)(torch.tensor([0.4, 0.6]))
    tensor([0.0000, 0.5370])
    """

    def _ranked(self, x: Tensor) -> Tensor:
        return x.abs()

    def _cut(self, x: Tensor) -> Tensor:
        return sparse_tanh(x, self.threshold)


class TopK(nn.Module):
    """`top_k` as a module: the ``k`` largest values along ``dim`` pass, the rest is zero, in training and in eval.

    Args:
        k: an ``int`` >= 1, or a ``float`` from 0 to 1 for that share of the axis.
        dim: the axis along which values compete.

    Shapes: a floating tensor of one axis or more in, the same shape and dtype out.

    Raises:
        UsageError: ``k`` is out of range; on the first call, if it is longer than the axis.

    >>> TopK(0.25)(torch.tensor([0.1, 0.4, 0.3, 0.2]))
    tensor([0.0000, 0.4000, 0.0000, 0.0000])
    """

    def __init__(self, k: int | float, dim: int = -1) -> None:
        super().__init__()
        self.k = _checked_k("TopK", k)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Apply `top_k`."""
        return top_k(x, self.k, self.dim)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"k={self.k}, dim={self.dim}"


def _thinned(x: Tensor) -> Tensor:
    """Return at most `_SAMPLE` values of `x`, flat, spread evenly over each of its axes.

    A stride that shares no factor with the size shares none with an axis either, so no channel or column is left out.
    No random numbers: a calibrating module must not change what the rest of the training draws.
    """
    flat = x.reshape(-1)
    size = flat.numel()
    stride = -(-size // _SAMPLE)
    while math.gcd(stride, size) != 1:
        stride += 1
    return flat[::stride]


def _winners(k: int | float, size: int) -> int:
    if isinstance(k, float):
        return max(1, active_count(size, 1 - k))
    if k > size:
        raise UsageError(f"top_k got k={k} for an axis of {size} values; accepted is 1 to {size}.")
    return k


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _check_floating(owner: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise UsageError(f"{owner} got a tensor of {x.dtype}; accepted are floating tensors.")


def _checked_threshold(owner: str, threshold: Any) -> float:
    if not _is_number(threshold) or not (math.isfinite(threshold) and threshold >= 0):
        raise UsageError(f"{owner} got threshold={threshold!r}; accepted is a finite number >= 0.")
    return float(threshold)


def _check_open_fraction(owner: str, target_sparsity: Any) -> None:
    if not _is_number(target_sparsity) or not 0 < target_sparsity < 1:
        raise UsageError(
            f"{owner} got target_sparsity={target_sparsity!r}; accepted is a number between 0 and 1, both excluded."
        )


def _checked_k(owner: str, k: Any) -> int | float:
    whole = isinstance(k, int) and k >= 1
    share = isinstance(k, float) and 0 < k <= 1
    if isinstance(k, bool) or not (whole or share):
        raise UsageError(f"{owner} got k={k!r}; accepted is a whole number >= 1, or a share above 0.0, up to 1.0.")
    return k  # type: ignore[no-any-return]
