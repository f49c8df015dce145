"""Seeing every application of a target's weight to an input, wherever in a model it happens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from isogrid.errors import UnsupportedError
from isogrid.sparsify.calibrated.rows import (
    Geometry,
    LinearGeometry,
    conv_geometry,
    conv_transpose_geometry,
)
from isogrid.sparsify.state import SparseLayer

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
_ATTENTION = inspect.signature(functional.multi_head_attention_forward)
_LINEAR = LinearGeometry()


@dataclass(frozen=True, eq=False)
class Call:
    """A target's weight is about to be applied.

    Attributes:
        layer: the target.
        start, rows: which of the weight's output rows are applied.
        inputs: what they are applied to.
        geometry: how they read it.
    """

    layer: SparseLayer
    start: int
    rows: int
    inputs: Tensor
    geometry: Geometry

    @property
    def whole(self) -> bool:
        """Whether all rows are applied."""
        return self.rows == self.layer.target.parameter.shape[self.layer.target.output_axis]

    @property
    def version(self) -> int:
        """A number that changes when the input is written to."""
        return version_of(self.inputs)


def version_of(tensor: Tensor) -> int:
    """A number that changes when a tensor is written to; always 0 where none is kept, in inference mode."""
    return 0 if tensor.is_inference() else tensor._version


class Watch(TorchFunctionMode):
    """While it is active, `seen` is told of each `Call` just before it happens.

    It looks at the functions that layers end in, not at layers: weights that a model's own code hands to
    ``functional.linear`` are seen, whole or as a slice of rows, weights shared by several layers at each of their
    places, and the projections of ``nn.MultiheadAttention`` too, whose fast path it keeps off.
    """

    def __init__(self, layers: Iterable[SparseLayer], seen: Callable[[Call], None]) -> None:
        super().__init__()
        self._seen = seen
        self._layers = {id(layer.target.parameter): layer for layer in layers}
        self._stores = {layer.target.parameter.untyped_storage().data_ptr(): layer for layer in self._layers.values()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is functional.linear:
            self._linear(*args, **named)
        elif func in _CONVOLUTIONS:
            self._conv(*args, **named)
        elif func in _TRANSPOSED:
            self._conv_transpose(*args, **named)
        elif func is functional.multi_head_attention_forward:
            return self._attention(args, named)
        return func(*args, **named)

    def _tell(self, inputs: Tensor, weight: Tensor, geometry: Geometry = _LINEAR) -> None:
        layer = self._layers.get(id(weight))
        if layer is not None:
            self._seen(Call(layer, 0, weight.shape[layer.target.output_axis], inputs, geometry))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:  # noqa: A002
        if id(weight) in self._layers:
            self._tell(input, weight)
            return
        layer = self._stores.get(weight.untyped_storage().data_ptr()) if weight.layout == torch.strided else None
        if layer is None:
            return
        parameter = layer.target.parameter
        start, rest = divmod(int(weight.storage_offset() - parameter.storage_offset()), max(1, parameter.stride(0)))
        if weight.shape[1:] == parameter.shape[1:] and weight.stride() == parameter.stride() and rest == 0:
            self._seen(Call(layer, start, weight.shape[0], input, _LINEAR))

    def _conv(
        self,
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        if id(weight) in self._layers:
            self._tell(input, weight, conv_geometry(weight, stride, padding, dilation, groups))

    def _conv_transpose(
        self,
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> None:
        layer = self._layers.get(id(weight))
        if layer is None:
            return
        if groups > 1:
            raise UnsupportedError(
                f"{layer.name} belongs to a transposed convolution of {groups} groups; calibrated pruning takes those "
                "of one group, so leave it out with ignore=."
            )
        self._tell(input, weight, conv_transpose_geometry(weight, stride, padding, output_padding, dilation))

    def _attention(self, args: Any, kwargs: Any) -> Any:
        """Tell of the projections of the input, and take the last projection out of the function to see its input."""
        bound = _ATTENTION.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        query, key, value = given["query"], given["key"], given["value"]
        if given["use_separate_proj_weight"]:
            for x, name in ((query, "q_proj_weight"), (key, "k_proj_weight"), (value, "v_proj_weight")):
                self._tell(x, given[name])
        elif (layer := self._layers.get(id(given["in_proj_weight"]))) is not None:
            width = given["in_proj_weight"].shape[0] // 3
            if query is key and key is value:
                self._tell(query, given["in_proj_weight"])
            else:
                for part, x in enumerate((query, key, value)):
                    self._seen(Call(layer, part * width, width, x, _LINEAR))
        last, bias = given["out_proj_weight"], given["out_proj_bias"]
        if id(last) not in self._layers:
            return functional.multi_head_attention_forward(*bound.args, **bound.kwargs)
        # A product with the identity is exact, so nothing is lost by having the function do that instead.
        given["out_proj_weight"] = torch.eye(last.shape[1], dtype=last.dtype, device=last.device)
        given["out_proj_bias"] = None
        attended, weights = functional.multi_head_attention_forward(*bound.args, **bound.kwargs)
        self._tell(attended, last)
        return functional.linear(attended, last, bias), weights
