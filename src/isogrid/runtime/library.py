"""Where the operators for ONNX Runtime are: a shared library that any session registers by its path."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from isogrid.errors import MissingDependencyError

NAME = "libisogrid_onnxruntime.so"


def library_path() -> Path:
    """The library with the operators of packed models, for ``SessionOptions.register_custom_ops_library``.

    It needs ONNX Runtime 1.17 or newer, and neither Python nor PyTorch.

    Raises:
        MissingDependencyError: this installation of isogrid came without it.

    >>> library_path().name
    'libisogrid_onnxruntime.so'
    """
    # Beside the extension module: in an editable install that is not where the Python sources are.
    native = find_spec("isogrid._native")
    if native is None or native.origin is None:
        raise MissingDependencyError("isogrid was installed without its native part; install its wheel, or build it.")
    path = Path(native.origin).with_name(NAME)
    if not path.is_file():
        raise MissingDependencyError(
            f"The operators for ONNX Runtime are missing: there is no {path}; install isogrid's wheel, or build it."
        )
    return path
