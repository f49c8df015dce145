"""Packed and other ONNX models in ONNX Runtime, without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import FormatError, MissingDependencyError, UsageError, first_line
from isogrid.names import unknown_name
from isogrid.runtime.library import library_path

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Attributes:
        name: in the graph.
        shape: an int for each axis, or the name (None where it has none) of one that is free.
        dtype: of its numbers; None for what is no tensor of numbers.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any] | None

    def __str__(self) -> str:
        sizes = "x".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {sizes} {self.dtype or 'of another type'}"


class Session:
    """A model that is ready to run: `onnxruntime.InferenceSession` with the native sparse operators.

    Any ONNX model will do; a packed one (`isogrid pack`) needs the operators.  Code that makes its own session needs
    one line instead: ``options.register_custom_ops_library(isogrid.runtime.library_path())``.

    Args:
        model: the file, or its bytes.
        threads: of one call, at least 1; by default as many as ONNX Runtime takes.
        options: ``onnxruntime.SessionOptions`` to start from; the operators and `threads` are added to it.

    Attributes:
        inputs, outputs: what goes in and comes out, in order.
        inner: the ``onnxruntime.InferenceSession``.

    Raises:
        UsageError: there is no such file, or a number of threads that is not accepted.
        FormatError: ONNX Runtime or one of the operators refuses the model.
        MissingDependencyError: onnxruntime is not installed.

    >>> session = Session("model.onnx", threads=2)                                   # doctest: +SKIP
    >>> logits, = session(x)                                                         # doctest: +SKIP
    """

    def __init__(
        self, model: str | os.PathLike[str] | bytes, *, threads: int | None = None, options: Any = None
    ) -> None:
        ort = require_onnxruntime()
        if threads is not None and threads < 1:
            raise UsageError(f"threads got {threads}; accepted are whole numbers from 1 on.")
        name = "the model" if isinstance(model, bytes) else os.fspath(model)
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise UsageError(f"{name} is not a file; an .onnx file is needed.")
        if options is None:
            options = ort.SessionOptions()
            options.log_severity_level = 3  # what matters comes as an error
        options.register_custom_ops_library(str(library_path()))
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.inner = ort.InferenceSession(
                model if isinstance(model, bytes) else name, options, providers=["CPUExecutionProvider"]
            )
        except Exception as problem:
            raise FormatError(f"ONNX Runtime cannot load {name}: {first_line(problem)}.") from None
        self.inputs = tuple(_port(entry) for entry in self.inner.get_inputs())
        self.outputs = tuple(_port(entry) for entry in self.inner.get_outputs())
        self._outputs = [port.name for port in self.outputs]

    def run(
        self, inputs: Mapping[str, Any] | Sequence[Any], outputs: Sequence[str] | None = None
    ) -> list[NDArray[Any]]:
        """The outputs named, or all of them, in order.

        Args:
            inputs: arrays by name, or in the order of ``self.inputs``.
            outputs: which ones; by default all.

        Raises:
            UsageError: not the model's inputs, or an output that it does not have.
            FormatError: ONNX Runtime fails; the message is its own.
        """
        if not isinstance(inputs, Mapping):
            if len(inputs) != len(self.inputs):
                raise UsageError(f"The model got {len(inputs)} inputs; accepted are {self._described()}.")
            inputs = {port.name: value for port, value in zip(self.inputs, inputs, strict=True)}
        for name in outputs or ():
            if name not in self._outputs:
                raise UsageError(unknown_name("output", name, self._outputs))
        names = {port.name for port in self.inputs}
        if inputs.keys() != names:
            raise UsageError(
                f"The model got the inputs {', '.join(inputs) or 'none'}; accepted are {self._described()}."
            )
        try:
            found: list[NDArray[Any]] = self.inner.run(list(outputs or self._outputs), inputs)
        except Exception as problem:
            raise FormatError(f"ONNX Runtime cannot run the model: {first_line(problem)}.") from None
        return found

    def __call__(self, *inputs: Any) -> list[NDArray[Any]]:
        """``run`` with the inputs in order."""
        return self.run(inputs)

    def shapes_of(self, arrays: Sequence[Any], *, batch: int | None = None) -> dict[str, tuple[int, ...]]:
        """The shapes that the inputs have with `arrays`, in order, by name.

        With `batch`, every axis 0 has that size, if the model leaves all of them free.  Nothing where there is another
        number of inputs: an exporter may have dropped one.
        """
        if len(self.inputs) != len(arrays):
            return {}
        free = all(isinstance(port.shape[0], str) for port in self.inputs if port.shape)
        shapes = {port.name: tuple(array.shape) for port, array in zip(self.inputs, arrays, strict=True)}
        if batch is None or not free:
            return shapes
        return {name: (batch, *shape[1:]) for name, shape in shapes.items()}

    def _described(self) -> str:
        return ", ".join(map(str, self.inputs))


def require_onnxruntime() -> Any:
    """The ``onnxruntime`` module.

    Raises:
        MissingDependencyError: it is not installed.

    >>> require_onnxruntime().__name__
    'onnxruntime'
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        raise MissingDependencyError(
            "Running ONNX files needs onnxruntime, which is not installed; install it with: "
            "pip install 'isogrid[onnx]'."
        ) from None
    return onnxruntime


def _port(entry: Any) -> Port:
    dtype = DTYPES.get(entry.type)
    return Port(entry.name, tuple(entry.shape), None if dtype is None else np.dtype(dtype))
