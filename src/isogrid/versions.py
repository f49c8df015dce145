"""The versions that a result depends on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform

PACKAGES = ("isogrid", "torch", "numpy", "onnx", "onnxscript", "onnxruntime")


def versions() -> dict[str, str]:
    """The version of Python and of each of `PACKAGES` that is installed; nothing is imported to find out.

    >>> sorted(versions())[:2]
    ['isogrid', 'numpy']
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
