"""Which parameters of a PyTorch model may be pruned, and what a mask does to a tensor.

A *target* is a weight matrix or kernel: of ``Linear``, ``Conv*d``, ``ConvTranspose*d``, of ``LSTM``/``GRU``/``RNN`` and
their cells, and the projections of ``MultiheadAttention`` (also its bare ``in_proj_weight``).  Biases and norms are
never targets.  Embeddings and depthwise convolutions are targets only when they are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from isogrid.errors import TargetError, UnsupportedError
from isogrid.matching import check_entries, matches, nothing_matches

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_EMBEDDING = (nn.Embedding, nn.EmbeddingBag)
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their bytes."""
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True, eq=False)
class Target:
    """A parameter that may be pruned.

    ``name`` is the parameter's qualified name, ``kind`` the layer it belongs to (``linear``, ``conv``,
    ``conv_transpose``, ``recurrent``, ``attention``, ``embedding``, ``other``) and ``output_axis`` the axis of its
    output units: 0 everywhere but in transposed convolutions.
    """

    name: str
    parameter: nn.Parameter
    kind: str
    output_axis: int = 0

    def canonical(self, tensor: Tensor) -> Tensor:
        """A view of ``tensor`` (of the parameter's shape) with axis 0 = output, axis 1 = input, then kernel axes."""
        return tensor.transpose(0, self.output_axis) if self.output_axis else tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape."""
        return tuple(self.canonical(self.parameter.data).shape)


def unwrap(model: nn.Module) -> nn.Module:
    """The module below ``torch.compile``, ``DistributedDataParallel``, ``DataParallel`` and ``AveragedModel``."""
    while True:
        kind = type(model).__name__
        inner = getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module) and kind in ("DistributedDataParallel", "DataParallel", "AveragedModel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def find_targets(
    model: nn.Module,
    targets: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    *,
    embeddings: bool = False,
) -> list[Target]:
    """The parameters of ``model`` that may be pruned, in the model's own order.

    ``targets`` and ``ignore`` hold names of parameters or modules, or regular expressions that match a whole parameter
    name.  Without ``targets`` all weights of the layers listed at the top of this module are taken; naming one also
    admits embeddings, depthwise convolutions and any other parameter of two axes or more.  ``embeddings=True`` admits
    the embeddings without naming them.  A weight shared by several modules appears once, under its first name; shared
    with an embedding it counts as an embedding.

    Raises ``TargetError`` when an entry matches nothing, names a bias or a norm, or when no target is left, and
    ``UnsupportedError`` for weights that are complex or cannot be seen whole (FSDP, uninitialised lazy modules).

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    >>> [target.name for target in find_targets(model)]
    ['1.weight']
    >>> [target.name for target in find_targets(model, targets=["0", "1"])]
    ['0.weight', '1.weight']
    """
    candidates = list(_candidates(unwrap(model)))
    wanted = check_entries("targets", targets)
    unwanted = check_entries("ignore", ignore) or []
    if wanted is None:
        chosen = [c for c, by_default in candidates if by_default or (embeddings and c.kind == "embedding")]
    else:
        chosen = [c for c, _ in candidates if any(matches(entry, c.name) for entry in wanted)]
        for entry in wanted:
            found = [c for c in chosen if matches(entry, c.name)]
            if not found:
                raise nothing_matches("targets", entry, [c.name for c, _ in candidates])
    for entry in unwanted:
        if not any(matches(entry, c.name) for c, _ in candidates):
            raise nothing_matches("ignore", entry, [c.name for c, _ in candidates])
    chosen = [c for c in chosen if not any(matches(entry, c.name) for entry in unwanted)]
    if not any(target.parameter.numel() for target in chosen):
        raise TargetError(
            f"No parameter of this {type(unwrap(model)).__name__} can be pruned; accepted are weights of two axes or "
            "more, of Linear, Conv, recurrent and attention layers or named in targets."
        )
    for target in chosen:
        if target.parameter.is_complex():
            raise UnsupportedError(
                f"{target.name} is {target.parameter.dtype}; only real weights can be pruned, so leave it out with "
                "ignore=."
            )
    return chosen


def _candidates(model: nn.Module) -> Iterator[tuple[Target, bool]]:
    """Every parameter of two axes or more, each once, with whether it is a target by default."""
    found: dict[int, tuple[Target, bool]] = {}
    for module_name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise UnsupportedError(
                "FullyShardedDataParallel shards the weights, so that no rank sees a whole mask; "
                "use DistributedDataParallel or a plain module."
            )
        for own_name, parameter in module._parameters.items():
            if parameter is None:
                continue
            name = f"{module_name}.{own_name}" if module_name else own_name
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise UnsupportedError(f"{name} is not initialised yet; run one batch through the lazy module first.")
            if type(parameter.data).__name__ == "DTensor":
                raise UnsupportedError(f"{name} is sharded (DTensor); only whole, unsharded weights can be pruned.")
            if parameter.dim() < 2 or not (parameter.is_floating_point() or parameter.is_complex()):
                continue
            kind, by_default = _kind(module, own_name)
            output_axis = 1 if kind == "conv_transpose" else 0
            if id(parameter) in found:
                first, first_default = found[id(parameter)]
                if kind == "embedding" or first.kind == "embedding":
                    found[id(parameter)] = (Target(first.name, parameter, "embedding"), False)
                elif by_default and not first_default:
                    found[id(parameter)] = (Target(first.name, parameter, kind, output_axis), True)
                continue
            found[id(parameter)] = (Target(name, parameter, kind, output_axis), by_default)
    return iter(found.values())


def _kind(module: nn.Module, own_name: str) -> tuple[str, bool]:
    if isinstance(module, nn.Linear) and own_name == "weight":
        return "linear", True
    if isinstance(module, _ConvNd) and own_name == "weight":
        depthwise = module.groups > 1 and module.groups in (module.in_channels, module.out_channels)
        kind = "conv_transpose" if isinstance(module, _ConvTransposeNd) else "conv"
        return kind, not depthwise
    if isinstance(module, nn.MultiheadAttention) and own_name in _ATTENTION_WEIGHTS:
        return "attention", True
    if isinstance(module, _RECURRENT) and own_name.startswith("weight"):
        return "recurrent", True
    if isinstance(module, _EMBEDDING) and own_name == "weight":
        return "embedding", False
    return "other", False


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set to zero what ``masks`` (name to boolean tensor of the parameter's shape, True = active) says is pruned.

    For copies of a model that are averaged apart from it (EMA, SWA), whose averaging brings zeros back to life.
    Raises ``TargetError`` when a name is missing or a shape differs.

    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> apply_masks(layer, {"weight": torch.tensor([[True, False], [False, True]])})
    >>> int(torch.count_nonzero(layer.weight))
    2
    """
    parameters = dict(unwrap(model).named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        parameter = parameters.get(name)
        if parameter is None or parameter.shape != mask.shape:
            arrived = "missing" if parameter is None else f"of shape {tuple(parameter.shape)}"
            raise TargetError(f"The mask of {name} has shape {tuple(mask.shape)}, and the parameter is {arrived}.")
        zero_pruned_(parameter.data, mask.to(parameter.device))


def zero_pruned_(tensor: Tensor, mask: Tensor) -> Tensor:
    """Put +0 into ``tensor``, in place, wherever ``mask`` (boolean, of its shape, True = active) is False.

    NaN and infinity go too, and what is active keeps its bits: the numbers are multiplied by 0 and 1 as the integers
    that their bits are.  On a CPU that takes a fifth to a twenty-fifth of the time of ``masked_fill_``, which
    looks at one number after the other, and it runs twice for every target in every step of a training.

    >>> import torch
    >>> zero_pruned_(torch.tensor([-1.0, float("nan"), 3.0]), torch.tensor([False, False, True]))
    tensor([0., 0., 3.])
    """
    bits = _INTEGERS.get(tensor.element_size())
    if bits is None or type(tensor) is not Tensor:
        return tensor.masked_fill_(~mask, 0)
    tensor.view(bits).mul_(mask)
    return tensor


def masks_of_zeros(targets: Iterable[Target]) -> dict[str, Tensor]:
    """Masks that call every nonzero weight active.  A layer of nothing but zeros is not a mask: it stays all active."""
    masks = {}
    for target in targets:
        mask = target.parameter.detach() != 0
        masks[target.name] = mask if bool(mask.any()) else torch.ones_like(mask)
    return masks


def count_zeros(model: nn.Module, targets: Sequence[Target] | None = None) -> dict[str, Any]:
    """Exact counts of real zeros: ``sparsity`` of the targets, ``sparsity_of_model``, ``nonzeros``, ``parameters``.

    ``nonzeros`` and ``parameters`` are of the whole model, shared parameters counted once.

    >>> from torch import nn
    >>> layer = nn.Linear(4, 2, bias=False)
    >>> _ = layer.weight.data[0].zero_()
    >>> count_zeros(layer)["sparsity"]
    0.5
    """
    listed = find_targets(model) if targets is None else targets
    size = sum(t.parameter.numel() for t in listed)
    alive = sum(int(torch.count_nonzero(t.parameter.detach())) for t in listed)
    everything = list(unwrap(model).parameters())
    parameters = sum(p.numel() for p in everything)
    nonzeros = sum(int(torch.count_nonzero(p.detach())) for p in everything)
    return {
        "sparsity": 1 - alive / size if size else 0.0,
        "sparsity_of_model": 1 - nonzeros / parameters if parameters else 0.0,
        "nonzeros": nonzeros,
        "parameters": parameters,
    }
