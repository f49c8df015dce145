"""PyTorch as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.common.contest import UnavailableError
from benchmarks.rivals import Example, FeatureMajor, Rival, Setting, is_channels_last


class Eager(Rival):
    """PyTorch's own operators, one after the other."""

    name = "torch eager"

    def settings(self, model: nn.Module, example: Example, thorough: bool) -> list[Setting]:
        """One, since layouts are forms of the model; int8 and float16 where PyTorch has them."""
        label = "W @ X" if isinstance(model, FeatureMajor) else "channels last" if is_channels_last(example) else ""
        found = [Setting(label)]
        kinds = {type(module) for module in model.modules()}
        if kinds & {nn.Linear, nn.GRU} and nn.Conv2d not in kinds:
            found.append(Setting("quantize_dynamic", "int8"))
            if thorough and isinstance(model, nn.Linear):
                found.append(Setting("half", "fp16"))
        return found

    def prepare(
        self, model: nn.Module, example: Example, threads: int, values: str = "fp32", **_: Any
    ) -> Callable[[], Any]:
        """The model itself; quantized dynamically for int8, in half precision for fp16."""
        if values == "int8":
            quantize = getattr(getattr(torch.ao, "quantization", None), "quantize_dynamic", None)
            if quantize is None:
                raise UnavailableError("this PyTorch has no quantize_dynamic")
            model = quantize(nn.Sequential(copy.deepcopy(model)), {nn.Linear, nn.GRU}, dtype=torch.qint8)[0]
        elif values == "fp16":
            model, example = copy.deepcopy(model).half(), tuple(tensor.half() for tensor in example)
        if len(example) == 1:
            x = example[0]
            return lambda: model(x)
        return lambda: model(*example)


RIVAL = Eager()
