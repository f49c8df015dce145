"""Pruning a trained model at once, without an optimiser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isogrid.calibration import Calibration, Forward, Loss
from isogrid.checks import check_whole
from isogrid.errors import UsageError
from isogrid.masks import count_zeros, find_targets, masks_of_zeros, unwrap
from isogrid.rules.method import Usage
from isogrid.sparsify.calibrated.batchnorm import batch_norms, follow_batch_norm, measure_batch_norm
from isogrid.sparsify.method import Method
from isogrid.sparsify.state import SparseState, dense_layers


@dataclass(frozen=True)
class PruneReport:
    """What `prune` did: exact counts of real zeros, and the masks (True = active).

    ``sparsity`` is of the targets; ``sparsity_of_model``, ``nonzeros`` and ``parameters`` are of the whole model.
    """

    sparsity: float
    sparsity_of_model: float
    nonzeros: int
    parameters: int
    layers: dict[str, float]
    masks: dict[str, Tensor]


def prune(
    model: nn.Module,
    method: Method,
    *,
    data: Iterable[Any] | None = None,
    forward: Forward | None = None,
    loss: Loss | None = None,
    targets: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    embeddings: bool = False,
    batch_norm: Literal["reestimate", "keep"] = "reestimate",
    seed: int = 0,
) -> PruneReport:
    """Prune a trained `model` in place with a method that works after training.

    Zeros that the model already holds stay zero.

    Args:
        model: any module; it is changed.
        method: a `Method` that works after training.
        data: batches for methods that look at what the layers see, or at gradients; a few hundred samples do.
        forward, loss: how the model answers a batch and what the loss of that is, see `Calibration`.
        targets, ignore: names or regular expressions, see `isogrid.masks.find_targets`.
        embeddings: whether embeddings are targets without being named.
        batch_norm: where there is data, ``"reestimate"`` lets the running statistics of batch normalisation follow what
            pruning changed, measured on `data` before and after, and ``"keep"`` leaves them alone.
        seed: seeds every random choice of the method.

    Raises:
        UsageError: the method belongs into a training loop (see `isogrid.Sparsifier`), it needs data and got none, or
            `batch_norm` is something else.
        DataError: the data holds no batch, or numbers that are not finite.
        TargetError, PatternError, TrainingError: nothing to prune, a pattern that does not fit, weights not finite.

    >>> import torch, isogrid as ig
    >>> layer = torch.nn.Linear(16, 4)
    >>> ig.prune(layer, ig.OneShot(sparsity=0.75)).sparsity
    0.75
    """
    if not isinstance(method, Method) or method.usage is not Usage.AFTER:
        raise UsageError(
            f"prune() got {method!r}; accepted is a method that works after training, such as OneShot(sparsity=0.5)."
        )
    if method.needs_data and data is None:
        raise UsageError(f"{type(method).__name__} looks at data and got none; pass data=, batches of a few samples.")
    if batch_norm not in ("reestimate", "keep"):
        raise UsageError(f"prune() got batch_norm={batch_norm!r}; accepted are 'reestimate' and 'keep'.")
    check_whole("prune()", "seed", seed, least=0)
    found = find_targets(model, targets, ignore, embeddings=embeddings)
    layers = dense_layers(found)
    plain = unwrap(model)
    state = SparseState(layers, total_steps=1, seed=seed, model=plain)
    state.calibration = calibration = None if data is None else Calibration(data, forward, loss)
    method.check(state)
    state.set_masks(masks_of_zeros(found))
    if calibration is not None and batch_norm == "reestimate" and batch_norms(plain):
        # One list of batches: what is compared must be the same data, and a loader may shuffle.
        state.calibration = calibration = replace(calibration, batches=list(calibration))
        before = measure_batch_norm(plain, calibration)
        method.begin(state)
        follow_batch_norm(plain, before, measure_batch_norm(plain, calibration))
    else:
        method.begin(state)
    counts: dict[str, Any] = count_zeros(model, found)
    shares = {layer.name: 1 - int(torch.count_nonzero(layer.weight)) / max(1, layer.size) for layer in layers}
    return PruneReport(**counts, layers=shares, masks={layer.name: layer.mask for layer in layers})
