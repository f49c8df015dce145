"""Running a model for calibration without leaving a trace in it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from isogrid.evaluating import evaluating


@contextlib.contextmanager
def uncached(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, nothing compiled, and no cache of keys and values; all as before afterwards.

    A part of the model is run more than once, which a cache that grows with each run (Hugging Face models'
    ``config.use_cache``) would not survive.

    >>> model = nn.Dropout()
    >>> with uncached(model):
    ...     print(model.training)
    False
    >>> model.training
    True
    """
    configs: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", None) is True:
            configs[id(config)] = config
    try:
        for config in configs.values():
            config.use_cache = False
        with evaluating(model), _eager():
            yield
    finally:
        for config in configs.values():
            config.use_cache = True


def _eager() -> contextlib.AbstractContextManager[Any]:
    """Nothing compiled runs as such; a compiler that nobody has loaded yet is left alone, for loading it is slow."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
