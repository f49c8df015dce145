"""PEFT: low-rank adapters on a sparse model that stays sparse when they are merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isogrid.errors import TargetError, UnsupportedError, UsageError
from isogrid.integrations.missing import missing
from isogrid.masks import zero_pruned_
from isogrid.sparsify.adapters import mask_delta

try:
    from peft.tuners.lora.layer import Conv1d, Conv2d, Conv3d, Linear, LoraLayer, LoraVariant
except ModuleNotFoundError as problem:
    raise missing(problem, "peft", extra="peft") from None

_MASK = "isogrid_mask"
"""The buffer of a LoRA layer that holds its base weight's mask; it is not saved, for the zeros are."""

_CONVOLUTIONS = (Conv1d, Conv2d, Conv3d)

_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""How the values of ``init_lora_weights`` begin that take a part out of the base weights, and with it their zeros."""


def keep_zeros(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Make the LoRA adapters of `model` keep the zeros of the weights that they adapt.

    The update that such an adapter adds is ``m * (scale * B @ A)``, with the mask ``m`` of the base weight, in the
    forward pass as in merging (SparsePEFT of SQFT, Munoz et al. 2024, arXiv:2410.03750).  So training sees the very
    weights that ``merge_and_unload()`` gives, and these have every zero of the base.  The forward pass builds the
    masked update, of the base weight's size, where LoRA alone would not.

    Call it after ``get_peft_model``, or after ``PeftModel.from_pretrained`` on the sparse base: masks are not part of
    an adapter's file, they are the base weights' zeros.  Call it again after an adapter was added.  Layers whose base
    has no zeros, or nothing but zeros, are left as they are; the row of an embedding's ``padding_idx``, which is zero
    in dense models too, counts as none.  Modules that PEFT trains as a whole (``modules_to_save``) are not adapters:
    hold their zeros with `isogrid.KeepZeros`.

    Args:
        model: a model with LoRA layers; it is changed.
        masks: base parameter name to boolean tensor of its shape (True = active), instead of the weights' own zeros;
            for initialisations that change the base weights (PiSSA, OLoRA), which must then be held by the masks.  A
            layer that they leave out is left as it is.

    Returns:
        The masks that are held from now on, by the name of the base parameter (copies).

    Raises:
        UsageError: no LoRA layer has a base weight with zeros, adapters are merged right now, or no masks tell the
            zeros of a base that an initialisation has changed.
        TargetError: a mask names no adapted weight, or does not fit it.
        UnsupportedError: a variant of LoRA whose update is no sum of the base weight and ``B @ A`` (DoRA, say), or a
            kind of layer other than linear and convolution.

    >>> from peft import LoraConfig, get_peft_model
    >>> import isogrid as ig
    >>> base = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> _ = ig.prune(base, ig.OneShot(sparsity=0.5))
    >>> model = get_peft_model(base, LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False))
    >>> sorted(keep_zeros(model))
    ['base_model.model.0.base_layer.weight', 'base_model.model.2.base_layer.weight']
    >>> ig.masks.count_zeros(model.merge_and_unload())["sparsity"]
    0.5
    """
    layers: dict[str, Any] = {
        f"{name}.base_layer.weight".lstrip("."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    if masks is not None and (strange := sorted(set(masks) - set(layers))):
        near = ", ".join(sorted(layers)[:3]) or "none"
        raise TargetError(
            f"The masks name {strange[0]}, which no LoRA layer adapts; names here are for example {near}."
        )
    if masks is None:
        _check_start(model, layers)
    held: dict[str, Tensor] = {}
    for name, layer in layers.items():
        mask = _mask_of(name, layer, masks)
        if mask is None:
            continue
        _check(name, layer)
        held[name] = mask
    if not held:
        raise UsageError(
            f"keep_zeros() found no zeros in the weights that the {len(layers)} LoRA layers adapt; accepted is a base "
            "model that was pruned before."
        )
    for name, mask in held.items():
        layer = layers[name]
        layer.register_buffer(_MASK, mask, persistent=False)
        zero_pruned_(layer.get_base_layer().weight.data, mask)
        for adapter in layer.lora_A:
            layer.lora_variant[adapter] = _Masked()
    return {name: mask.clone() for name, mask in held.items()}


def _mask_of(name: str, layer: Any, masks: Mapping[str, Tensor] | None) -> Tensor | None:
    """The mask of a layer's base weight; None where there is nothing to keep."""
    weight = getattr(layer.get_base_layer(), "weight", None)
    if masks is not None:
        if name not in masks:
            return None
        mask = masks[name]
        if weight is None or mask.shape != weight.shape or mask.dtype != torch.bool:
            arrived = "missing" if weight is None else f"of shape {tuple(weight.shape)}"
            raise TargetError(
                f"The mask of {name} is {mask.dtype} of shape {tuple(mask.shape)}, and the weight is {arrived}; "
                "accepted is torch.bool of the weight's shape."
            )
        return mask.to(weight.device, copy=True)
    if getattr(layer, _MASK, None) is not None:
        held: Tensor = layer.get_buffer(_MASK)  # an adapter may be merged by now, and its update may be zero by chance
        return held
    if weight is None or not weight.is_floating_point():
        return None
    mask = weight.detach() != 0
    padding = getattr(layer.get_base_layer(), "padding_idx", None)
    if padding is not None:
        mask[padding] = True
    return mask if bool(mask.any()) and not bool(mask.all()) else None


def _check_start(model: nn.Module, layers: Mapping[str, Any]) -> None:
    """Raise where a layer's base weight may have lost its zeros before any mask was held."""
    starts: dict[str, object] = {}
    for module in model.modules():
        configs = getattr(module, "peft_config", None)
        for adapter, config in configs.items() if isinstance(configs, Mapping) else ():
            starts[adapter] = getattr(config, "init_lora_weights", None)
    for name, layer in layers.items():
        for adapter in [] if getattr(layer, _MASK, None) is not None else layer.lora_A:
            start = starts.get(adapter)
            if isinstance(start, str) and start.lower().startswith(_CHANGING):
                raise UsageError(
                    f"Adapter {adapter!r} of {name} has init_lora_weights={start!r}, which changes the base weight and "
                    "loses its zeros; accepted are masks= of before, or an initialisation that leaves the base alone."
                )


def _check(name: str, layer: Any) -> None:
    """Raise if the masked update is not known for the layer, or cannot be put in its place now."""
    if not isinstance(layer, (Linear, *_CONVOLUTIONS)) or type(layer).__module__ != Linear.__module__:
        raise UnsupportedError(
            f"{name} is adapted by a {type(layer).__module__}.{type(layer).__name__}, whose update cannot be masked; "
            "accepted are LoRA on linear and convolution layers that are not quantised, or masks= that leave it out."
        )
    for adapter, variant in layer.lora_variant.items():
        if not isinstance(variant, _Masked):
            raise UnsupportedError(
                f"Adapter {adapter!r} of {name} is a {type(variant).__name__}, whose merged weight is not the base "
                "weight plus a masked update; accepted is plain LoRA."
            )
    if layer.merged:
        raise UsageError(f"The adapters of {name} are merged; unmerge_adapter() before keep_zeros().")


class _Masked(LoraVariant):
    """LoRA with its update masked, as the variant that PEFT asks wherever it would use the update."""

    @staticmethod
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        """Nothing: the layer holds the mask."""

    @staticmethod
    def _delta(module: Any, active_adapter: str) -> Tensor:
        return mask_delta(module.get_delta_weight(active_adapter), module.get_buffer(_MASK))

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        return orig_weight + _Masked._delta(module, active_adapter).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        orig_weight.data += _Masked._delta(module, active_adapter).to(orig_weight.dtype)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        unmerged: Tensor = orig_weight.data - _Masked._delta(module, active_adapter).to(orig_weight.dtype)
        return unmerged

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        delta = _Masked._delta(module, active_adapter)
        bias = module.lora_B[active_adapter].bias
        if bias is not None:
            bias = bias * module.scaling[active_adapter]
        x = module.lora_dropout[active_adapter](x)
        base: Any = module.get_base_layer()
        update: Tensor
        if isinstance(module, _CONVOLUTIONS):
            update = base._conv_forward(x, delta, bias)
        else:
            update = nn.functional.linear(x, delta.T if module.fan_in_fan_out else delta, bias)
        return result + update
