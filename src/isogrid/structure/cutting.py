"""Cutting a module down: its tensors, and the sizes that modules keep beside them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from isogrid.structure.attention import ShrunkAttention
from isogrid.structure.tracing import Trace

HEAD_COUNTS = (
    "num_heads", "num_attention_heads", "num_key_value_heads", "n_heads", "n_head", "n_kv_heads", "num_kv_heads",
    "nhead", "heads", "h",
)  # fmt: skip
"""Attributes in which attention modules keep how many heads they have."""

HEAD_WIDTHS = ("all_head_size", "inner_dim", "attn_dim", "embed_dim", "split_size", "dim", "d_model", "hidden_size")
"""Attributes in which they keep how wide these are together."""


def cut(model: nn.Module, trace: Trace, gone: Tensor, attributes: Sequence[str] = ()) -> None:
    """Remove from `model`, a copy of the traced one, what is gone.

    Args:
        model: changed in place; its parameters stay the same objects, so that shared ones stay shared.
        trace: of the original.
        gone: boolean, for each label whether it is removed.
        attributes: names of `HEAD_COUNTS` and `HEAD_WIDTHS` to correct where a module lost heads.
    """
    changed = set()
    modules = dict(model.named_modules())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        data = tensor.data
        for axis in range(tensor.dim()):
            lost = gone[trace.sites[name, axis]]
            if bool(lost.any()):
                data = data.index_select(axis, (~lost).nonzero().flatten().to(data.device))
                changed.add(id(tensor))
        if data is not tensor.data and id(tensor) in changed:
            tensor.data = data.contiguous()
    for module in modules.values():
        own = [*module._parameters.values(), *module._buffers.values()]
        below = [module.out_proj.weight] if isinstance(module, nn.MultiheadAttention) else []
        if any(tensor is not None and id(tensor) in changed for tensor in [*own, *below]):
            _resize(module)
    for module in modules.values():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, ShrunkAttention) for m in module.modules()):
            module.use_nested_tensor = False  # what its fused evaluation reads padded batches as
    for place, attribute, labels in trace.coupling.sizes:
        kept = int((~gone[labels]).sum())
        _scale(modules.get(place, model), attribute, kept, len(labels))
    for place, labels in {place: labels for labels, place in trace.coupling.heads}.items():
        _correct_heads(modules.get(place, model), attributes, gone[labels])


def _resize(module: nn.Module) -> None:
    """Let a module's attributes say what its parameters do."""
    weight = module._parameters.get("weight_orig")  # behind a mask of torch.nn.utils.prune
    if weight is None:
        weight = getattr(module, "weight", None)
    if isinstance(module, nn.MultiheadAttention):
        ShrunkAttention.adopt(module)
    elif isinstance(module, _NormBase):
        module.num_features = len(weight if weight is not None else module.running_mean)  # type: ignore[arg-type]
    elif not isinstance(weight, Tensor):
        return
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _ConvNd):
        _resize_convolution(module, weight)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(weight)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.numel()
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # the transposed linear layer of transformers
        for attribute, size in zip(("nx", "nf"), weight.shape, strict=True):
            setattr(module, attribute, size)


def _resize_convolution(module: _ConvNd, weight: Tensor) -> None:
    first, second = weight.shape[:2]
    if module.transposed:
        if 1 < module.groups == module.in_channels:
            module.groups = first
        module.in_channels, module.out_channels = first, second * module.groups
    else:
        if 1 < module.groups == module.in_channels:
            module.groups = first * module.in_channels // module.out_channels
        module.in_channels, module.out_channels = second * module.groups, first


def _scale(module: nn.Module, attribute: str, kept: int, size: int) -> None:
    old = getattr(module, attribute, None)
    if kept == size or old is None:
        return
    setattr(module, attribute, old * kept // size if isinstance(old, int) else (*old[:-1], kept))


def _correct_heads(module: nn.Module, attributes: Sequence[str], lost: Tensor) -> None:
    size = len(lost)
    kept = size - int(lost.sum())
    for attribute in attributes:
        old = getattr(module, attribute, None)
        if kept < size and isinstance(old, int) and old * kept % size == 0:
            setattr(module, attribute, old * kept // size)
