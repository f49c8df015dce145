"""Speed: sparse layers on the native kernels.  The only room, beside the file formats' codecs, that touches them.

What runs ONNX files needs neither PyTorch nor onnx: `Session` and `library_path` are all that a target machine uses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isogrid.runtime.benchmarking.racing import benchmark as benchmark
    from isogrid.runtime.library import library_path as library_path
    from isogrid.runtime.packing.packer import pack as pack
    from isogrid.runtime.packing.unpacking import unpack as unpack
    from isogrid.runtime.session import Session as Session

_HOMES = {
    "Session": "session",
    "benchmark": "benchmarking.racing",
    "library_path": "library",
    "pack": "packing.packer",
    "unpack": "packing.unpacking",
}

__all__ = ["Session", "benchmark", "library_path", "pack", "unpack"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
