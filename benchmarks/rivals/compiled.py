"""`torch.compile`, as it is and with frozen weights, which it then lays out for the processor."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import nn

from benchmarks.rivals import Example, FeatureMajor, Rival, Setting, is_channels_last

_numbers = itertools.count()


class Compiled(Rival):
    """One graph for the example's shapes."""

    name = "torch.compile"

    def settings(self, model: nn.Module, example: Example, thorough: bool) -> list[Setting]:
        """Frozen, and with weights as inputs."""
        layout = "W @ X" if isinstance(model, FeatureMajor) else "channels last" if is_channels_last(example) else ""
        found = [Setting(", ".join(filter(None, [layout, "frozen"])), options={"frozen": True})]
        if thorough:
            found.append(Setting(layout or "default", options={"frozen": False}))
        return found

    def prepare(
        self, model: nn.Module, example: Example, threads: int, values: str = "fp32", *, frozen: bool = True, **_: Any
    ) -> Callable[[], Any]:
        """Compiled for the example's shapes and the current number of threads, which its code depends on."""

        def forward(*inputs: Any) -> Any:
            return model(*inputs)

        torch._dynamo.config.allow_rnn = True  # refused unless asked for
        # What is compiled is kept by code object and given up after a few recompilations, silently: each has its own.
        code = forward.__code__.replace(co_name=f"forward_{next(_numbers)}")
        own = FunctionType(code, forward.__globals__, code.co_name, None, forward.__closure__)
        call = torch.compile(own, dynamic=False, fullgraph=True, options={"freezing": True} if frozen else None)
        with torch.no_grad():
            call(*example)
        if len(example) == 1:
            x = example[0]
            return lambda: call(x)
        return lambda: call(*example)


RIVAL = Compiled()
