"""For models that cannot be traced: their layers replaced one by one, nothing fused."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from isogrid.evaluating import plain_attention
from isogrid.runtime.cost import Work
from isogrid.runtime.layers import SparseConv2d, SparseLinear, same_padding
from isogrid.runtime.matrix import Values
from isogrid.runtime.products import Product
from isogrid.runtime.rewriting import Choice, Decide


def swap(
    model: nn.Module, decide: Decide, values: Values, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[nn.Module, list[Choice]]:
    """A copy of `model` with `nn.Linear` and `nn.Conv2d` modules replaced where that pays, and what became of each.

    The exact types only: a class derived from them may compute something else.
    """
    swapped = copy.deepcopy(model).requires_grad_(False)
    _without_fast_path(swapped)
    shapes = _shapes(model, args, kwargs)
    choices = []
    for name, module in list(swapped.named_modules()):
        if type(module) not in (nn.Linear, nn.Conv2d) or name not in shapes:
            continue
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            continue
        if module.weight.numel() == 0:
            continue
        inputs, outputs = shapes[name]
        product = _product(name, module, inputs)
        rows, columns = product.weight.shape[0], math.prod(product.weight.shape[1:])
        nonzeros = int(torch.count_nonzero(product.weight))
        work = Work(rows, columns, nonzeros, max(1, math.prod(outputs) // rows), math.prod(inputs))
        if product.depthwise:
            yes, expected, reason = False, None, "nothing to fuse"
        else:
            yes, expected, reason = decide(product, work)
        choices.append(
            Choice(
                product.name, "depthwise" if product.depthwise else product.kind, tuple(product.weight.shape),
                1 - nonzeros / (rows * columns), work.macs, "sparse" if yes else "dense", expected,
                "bias" if yes and product.bias is not None else "", reason,
            )
        )  # fmt: skip
        if yes:
            kind = SparseLinear if product.kind == "linear" else SparseConv2d
            layer = kind.from_module(module, values, name=product.name)
            if not name:
                return layer, choices
            owner, _, attribute = name.rpartition(".")
            setattr(swapped.get_submodule(owner), attribute, layer)
    return swapped, choices


def _product(name: str, module: nn.Module, inputs: tuple[int, ...]) -> Product:
    assert isinstance(module, (nn.Linear, nn.Conv2d))
    weight = module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    path = f"{name}.weight" if name else "weight"
    graph = fx.Graph()  # a place for the shape of the input, which timing asks for
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(inputs, device="meta")
    node = graph.call_function(torch.ops.aten.linear.default, (x,))
    if isinstance(module, nn.Linear):
        return Product(path, "linear", weight, bias, [node])
    padding = same_padding(module.kernel_size, module.dilation) if module.padding == "same" else module.padding
    pads = (0, 0, 0, 0) if isinstance(padding, str) else padding if len(padding) == 4 else (*padding, *padding)
    return Product(
        path, "conv2d", weight, bias, [node], groups=module.groups, stride=tuple(module.stride),
        padding=tuple(pads), dilation=tuple(module.dilation),
    )  # fmt: skip


def _without_fast_path(model: nn.Module) -> None:
    """PyTorch's encoder in one operator reads the weights of layers that are replaced here; this is how it is left."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def _shapes(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of input and output of every module that the example reaches."""
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                found[name] = tuple(inputs[0].shape), tuple(output.shape)

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad(), plain_attention():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found
