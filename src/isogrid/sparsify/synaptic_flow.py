"""Synaptic flow: how much of all paths through a network runs through each weight."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from isogrid.calibration import Calibration
from isogrid.errors import UsageError
from isogrid.sparsify.calibrated.uncached import uncached


def synaptic_flow(model: nn.Module, names: Sequence[str], calibration: Calibration) -> list[Tensor]:
    """The gradient of ``R = 1' (prod_l |W_l|) 1`` by ``|w|``, for each of the parameters called `names`.

    A copy of the model, in double precision for the products of many layers, is made linear: absolute weights, no
    biases, batch normalisation by its running variance alone.  It answers the first batch with every floating-point
    number replaced by one (token ids and the like stay), and R is the sum of the answer.  Rectifiers pass this
    through; other activations and normalisations are taken as they are.

    Source: Tanaka et al. 2020, arXiv:2006.05467, section 5.

    Raises:
        UsageError: the answer does not follow from the weights.
    """
    twin = copy.deepcopy(model).double()
    for name, parameter in twin.named_parameters():
        parameter.data = torch.zeros_like(parameter) if "bias" in name.rpartition(".")[2] else parameter.data.abs()
        parameter.requires_grad_(False)
    for name, buffer in twin.named_buffers():
        if name.rpartition(".")[2] == "running_mean":
            buffer.zero_()
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    chosen = [parameters[name].requires_grad_(True) for name in names]
    with uncached(twin), torch.enable_grad():
        answer = calibration.answer(twin, _ones_like(next(iter(calibration))))
        return list(torch.autograd.grad(_total(answer), chosen, materialize_grads=True))


def _ones_like(batch: Any) -> Any:
    nested = dict(batch) if isinstance(batch, Mapping) else batch

    def one(leaf: Any) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return torch.ones_like(leaf, dtype=torch.float64) if floating else leaf

    return pytree.tree_map(one, nested)


def _total(answer: Any) -> Tensor:
    """The sum of the logits, or of all that a model answers."""
    leaves = pytree.tree_leaves(getattr(answer, "logits", answer))
    sums = [leaf.sum() for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not sums:
        raise UsageError(
            f"The model's answer to a batch of ones is of type {type(answer).__name__} and does not follow from the "
            "targets' weights; accepted are tensors, nested as they may be, that do."
        )
    return torch.stack(sums).sum()
