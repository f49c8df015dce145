"""Statistics of batch normalisation after pruning: what a layer passes on has moved, and they should follow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isogrid.calibration import Calibration, Forward
from isogrid.errors import DataError
from isogrid.masks import unwrap
from isogrid.sparsify.calibrated.uncached import uncached


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and variance of each channel, ``[channels]``."""

    mean: Tensor
    variance: Tensor


def reestimate_batch_norm(model: nn.Module, data: Iterable[Any], forward: Forward | None = None) -> list[str]:
    """Set the running statistics of all batch normalisation layers to what they see of `data`.

    Means and variances are averaged over the batches, each layer normalising by the batch's own as in training; nothing
    else of the model changes.  The more samples, the better: a few hundred for convolutions, thousands where a sample
    gives a channel one number.  Correcting the statistics of a sparse model this way is known from Li et al. 2020,
    "EagleEye", arXiv:2007.02491, section 3.3 ("adaptive batch normalization").

    Args:
        model: any module; layers without running statistics are left alone.
        data, forward: batches and how the model answers one, see `Calibration`.

    Returns:
        The names of the layers.

    Raises:
        DataError: there is no batch, or one gives a channel a single number.

    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> reestimate_batch_norm(model, [torch.tensor([[1.0], [3.0]])])
    ['0']
    >>> float(model[0].running_mean), float(model[0].running_var)
    (2.0, 2.0)
    """
    found = measure_batch_norm(unwrap(model), Calibration(data, forward))
    layers = batch_norms(unwrap(model))
    for name, seen in found.items():
        _write(layers[name], seen.mean, seen.variance)
    return list(found)


def follow_batch_norm(model: nn.Module, before: Mapping[str, Statistics], after: Mapping[str, Statistics]) -> None:
    """Move running statistics by as much as those of the same data moved from `before` to `after`.

    Variances by the ratio, and means by the difference, but with the deviation shrinks what few samples got wrong in
    `before`: of a channel that is all but gone the mean seen now is right, and an error that was small beside its old
    deviation would be magnified by its new one.  Where nothing changed the running statistics stay as training left
    them.
    """
    layers = batch_norms(model)
    for name in before.keys() & after.keys():
        layer, old, new = layers[name], before[name], after[name]
        mean, variance = layer.running_mean, layer.running_var
        assert mean is not None
        assert variance is not None
        # A channel that never varied, or no longer does, has no ratio: its variance is what is seen now.
        ratio = new.variance / old.variance
        moved = torch.where(torch.isfinite(ratio) & (ratio > 0), variance * ratio, new.variance)
        moved = torch.where(old.variance == new.variance, variance, moved)
        shrunk = (moved / variance).sqrt().nan_to_num(0.0, 0.0)
        followed = torch.where(
            (old.mean == new.mean) & (old.variance == new.variance), mean, new.mean + (mean - old.mean) * shrunk
        )
        _write(layer, followed, moved)


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch normalisation layers with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    }


def measure_batch_norm(model: nn.Module, calibration: Calibration) -> dict[str, Statistics]:
    """What each layer that the data reaches sees; the model is as before afterwards.

    Raises:
        DataError: there is no batch, or one gives a channel a single number.
    """
    layers = batch_norms(model)
    kept = {name: (layer.momentum, {k: v.clone() for k, v in layer.named_buffers()}) for name, layer in layers.items()}
    found: dict[str, Statistics] = {}
    try:
        with uncached(model):
            for layer in layers.values():
                layer.reset_running_stats()
                layer.momentum = None  # the plain average over batches
                layer.training = True
            for batch in calibration:
                with enough_samples():
                    calibration.answer(model, batch)
            for name, layer in layers.items():
                assert layer.running_mean is not None
                assert layer.running_var is not None
                if layer.num_batches_tracked:
                    found[name] = Statistics(layer.running_mean.clone(), layer.running_var.clone())
    finally:
        for name, layer in layers.items():
            momentum, buffers = kept[name]
            layer.momentum = momentum
            for key, value in buffers.items():
                layer.get_buffer(key).copy_(value)
    return found


@contextlib.contextmanager
def enough_samples() -> Iterator[None]:
    """Around a forward pass that normalises by its batch's own statistics: raise ``DataError`` where it has none."""
    try:
        yield
    except ValueError as problem:
        if "more than 1 value per channel" not in str(problem):
            raise
        raise DataError(
            "A batch of data gives a batch normalisation layer one number a channel, which has no variance; accepted "
            "are batches of two samples or more."
        ) from None


def _write(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
