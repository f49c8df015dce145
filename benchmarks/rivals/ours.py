"""Isogrid: single layers on the native kernels, and compiled models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.rivals import Example, FeatureMajor, Rival, Setting
from benchmarks.rivals.cache import made

VALUES = ("fp32", "fp16", "int8")


class Isogrid(Rival):
    """The sparse counterpart of a single layer, `isogrid.compile` of anything else."""

    name = "isogrid"

    def settings(self, model: nn.Module, example: Example, thorough: bool) -> list[Setting]:
        """One for each way to store weights."""
        return [Setting("", values) for values in VALUES]

    def prepare(
        self, model: nn.Module, example: Example, threads: int, values: str = "fp32", **options: Any
    ) -> Callable[[], Any]:
        """A layer or a compiled model; what is feature-major is a convolution of height 1."""
        if not isinstance(model, (nn.Linear, nn.Conv2d, FeatureMajor)):
            compiled = compiled_model(model, example, values)
            if _falls_back(compiled, model, example):
                raise RuntimeError("the compiled model does not take this input and runs the original instead")
            return lambda: compiled(*example)
        layer = made(model, (values, *options.items()), lambda: _layer(model, values, options))
        x = example[0]
        if isinstance(model, FeatureMajor):
            x = x.reshape(1, x.shape[0], 1, x.shape[1])
        return lambda: layer(x)


def compiled_model(model: nn.Module, example: Example, values: str = "fp32") -> Any:
    """`isogrid.compile`, once for each size of input: its choices depend on it."""
    import isogrid

    key = (values, *(tensor.shape for tensor in example))
    return made(model, key, lambda: isogrid.compile(model, example, values=values))


def _falls_back(compiled: nn.Module, model: nn.Module, example: Example) -> bool:
    """Whether a call of the compiled model is one of the original: right in any case, but nothing to be timed."""
    called: list[bool] = []
    handle = model.register_forward_pre_hook(lambda *_: called.append(True))
    try:
        compiled(*example)
    finally:
        handle.remove()
    return bool(called)


def stored_weight(weight: Any, values: str) -> Any:
    """The float32 weights that are computed with when they are stored as ``values``."""
    from isogrid.runtime.matrix import SparseMatrix

    return SparseMatrix.from_dense(weight, values).to_dense()


def _layer(model: nn.Linear | nn.Conv2d | FeatureMajor, values: str, options: dict[str, Any]) -> nn.Module:
    from isogrid.runtime.layers import SparseConv2d, SparseLinear
    from isogrid.runtime.matrix import SparseMatrix

    if isinstance(model, nn.Linear):
        return SparseLinear.from_module(model, values, **options)
    if isinstance(model, nn.Conv2d):
        return SparseConv2d.from_module(model, values, **options)
    matrix = SparseMatrix.from_dense(model.weight.detach().numpy(), values)
    return SparseConv2d(matrix, channels=matrix.columns, kernel=(1, 1), **options)


RIVAL = Isogrid()
