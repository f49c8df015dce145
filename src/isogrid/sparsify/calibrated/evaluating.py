"""Running a model for calibration without leaving a trace in it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, nothing compiled, and no cache of keys and values; all as before afterwards.

    A part of the model is run more than once, which a cache that grows with each run (Hugging Face models'
    ``config.use_cache``) would not survive.

    >>> model = nn.Dropout()
    >>> with evaluating(model):
    ...     print(model.training)
    False
    >>> model.training
    True
    """
    training = {module: module.training for module in model.modules()}
    configs: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", None) is True:
            configs[id(config)] = config
    try:
        model.eval()
        for config in configs.values():
            config.use_cache = False
        with torch.no_grad(), _eager():
            yield
    finally:
        for config in configs.values():
            config.use_cache = True
        for module, was in training.items():
            module.training = was


def _eager() -> contextlib.AbstractContextManager[Any]:
    """Nothing compiled runs as such; a compiler that nobody has loaded yet is left alone, for loading it is slow."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
