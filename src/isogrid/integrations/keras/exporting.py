"""Keras models as ONNX files with sparse weights, standard or packed for the native kernels."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from isogrid.errors import FormatError, MissingDependencyError, UnsupportedError, UsageError, first_line
from isogrid.formats.files import write_atomically
from isogrid.formats.numbers import Values, parse_values
from isogrid.formats.onnx_weights import require_onnx, shrink_weights
from isogrid.integrations.keras.weights import Selection, census, rounded_to
from isogrid.runtime.session import Session
from isogrid.versions import versions

TOLERANCE = 1e-4
"""By how much of its largest number an output may differ from Keras's."""
_EXPORTERS = {"tensorflow": "tf2onnx", "jax": "jax2onnx", "torch": "onnxscript"}
_LARGEST_FILE = 2**31 - 1


def export(
    model: Any,
    path: str | os.PathLike[str],
    example: Any = None,
    *,
    packed: bool = False,
    values: Values = "fp32",
    targets: Selection = None,
    ignore: Selection = None,
    opset: int | None = None,
) -> int:
    """Write a built `model` as an ONNX file with sparse weights; give the number of bytes.

    Keras's own exporter makes the graph (it needs tf2onnx on TensorFlow, jax2onnx on JAX), axis 0 of every input is
    left free, and each weight is stored in the fewest bytes that hold it exactly (`isogrid.formats.onnx_weights`).
    The file is put in its place when ONNX Runtime has answered as Keras does, on the example and on one sample.

    Args:
        model: left as it is.
        path: the file; written whole or not at all.
        example: inputs, as the model is called with: an array, or a list or dict of arrays, batch first.  By default
            random numbers (zeros for whole numbers) of the shapes that the model was built with.
        packed: for the native kernels (see `isogrid.runtime.packing.pack`); whether a layer gains is judged for inputs
            of the example's sizes.
        values: number format of the weights; a copy of them is rounded as `quantize` does.
        targets, ignore: which weights are rounded and counted, see `find_targets`.
        opset: ONNX operator set; by default that of the exporter.

    Raises:
        UsageError: an unknown number format, a model that is not built, or inputs of unknown shape without an example.
        UnsupportedError: Keras cannot export the model, or the file would pass 2 GB; a weight cannot be rounded.
        TargetError: nothing is a target.
        FormatError: the file's outputs differ from Keras's; nothing is written.
        MissingDependencyError: onnx, onnxruntime or what the backend needs is not installed.
        RunError: the file cannot be written.

    >>> export(model, "model.onnx", packed=True)                                     # doctest: +SKIP
    """
    parse_values(values)
    check_exporter()
    if not isinstance(model, keras.Model) or not model.built:
        raise UsageError("export() needs a Keras model that is built; call it once, or give it an Input layer.")
    arrays = example if example is not None else _drawn(model)
    with rounded_to(model, values, targets, ignore), tempfile.TemporaryDirectory(prefix="isogrid-") as folder:
        standard = Path(folder, "standard.onnx")
        data = _standard(model, arrays, standard, values, targets, ignore, opset)
        if not packed:
            write_atomically(path, data)
            return len(data)
        from isogrid.runtime.packing.packer import pack

        shapes = Session(standard, threads=1).shapes_of(keras.tree.flatten(arrays))
        return pack(standard, path, values=values, shapes=shapes).bytes_after


def check_exporter() -> None:
    """Raise ``MissingDependencyError`` for the first library that is missing to export with this backend."""
    backend = keras.backend.backend()
    wanted = [_EXPORTERS[backend]] if backend in _EXPORTERS else []
    for library in ("onnx", "onnxruntime", "onnx_ir", *wanted):
        if importlib.util.find_spec(library) is None:
            missing = library if library in wanted else "'isogrid[onnx]'"
            raise MissingDependencyError(
                f"ONNX files of Keras models on {backend} need {library}, which is not installed; install it with: "
                f"pip install {missing}."
            )


def _standard(
    model: Any, arrays: Any, path: Path, values: Values, targets: Selection, ignore: Selection, opset: int | None
) -> bytes:
    """The standard file, written to `path` and compared with the model."""
    onnx = require_onnx()
    _trace(model, arrays, path, opset)
    proto = onnx.load(str(path))
    del proto.graph.value_info[:]
    shrink_weights(proto, values, {})
    counts = census(model, targets, ignore)
    notes = {
        "isogrid.version": versions()["isogrid"],
        "isogrid.values": values,
        "isogrid.sparsity": repr(counts.sparsity),
        "isogrid.sparsity_of_model": repr(counts.sparsity_of_model),
    }
    onnx.helper.set_model_props(proto, notes)
    if proto.ByteSize() > _LARGEST_FILE:
        raise UnsupportedError(f"The ONNX file would have {proto.ByteSize()} bytes; a file may have 2 GB at most.")
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    path.write_bytes(data)
    _compare(model, arrays, Session(data, threads=1))
    return data


def _trace(model: Any, arrays: Any, path: Path, opset: int | None) -> None:
    names = iter(_input_names(model, len(keras.tree.flatten(arrays))))

    def spec(array: Any) -> keras.InputSpec:
        array = np.asarray(array)
        return keras.InputSpec(shape=(None, *array.shape[1:]), dtype=array.dtype.name, name=next(names))

    signature = keras.tree.map_structure(spec, arrays)
    try:
        with _silence():
            model.export(
                str(path), format="onnx", verbose=False, input_signature=[signature],
                **({} if opset is None else {"opset_version": opset}),
            )  # fmt: skip
    except Exception as problem:
        raise UnsupportedError(
            f"Keras cannot export this {type(model).__name__} to ONNX: {type(problem).__name__}: {first_line(problem)}."
        ) from problem


def _input_names(model: Any, count: int) -> list[str]:
    """The names of the model's own inputs where it has any, else such as ``input_0``."""
    try:
        names = [tensor.name for tensor in model.inputs]
    except AttributeError:
        names = []
    return names if len(names) == count else [f"input_{index}" for index in range(count)]


def _drawn(model: Any) -> Any:
    """Inputs of the shapes that the model was built with, four samples."""
    generator = np.random.default_rng(0)

    def draw(tensor: Any) -> NDArray[Any]:
        shape = tuple(tensor.shape)[1:]
        if None in shape:
            raise UsageError(
                f"The input {tensor.name} has the shape {tuple(tensor.shape)}; give an example, for only axis 0 may be "
                "left open."
            )
        dtype = np.dtype(keras.backend.standardize_dtype(tensor.dtype))
        return (
            generator.standard_normal((4, *shape)).astype(dtype) if dtype.kind == "f" else np.zeros((4, *shape), dtype)
        )

    try:
        inputs = model.inputs
        structure = getattr(model, "_inputs_struct", inputs)
    except AttributeError:
        inputs = None
    if not inputs:
        raise UsageError("export() of a model without Input layers needs an example.")
    if len(inputs) == 1 and not isinstance(structure, Mapping):
        return draw(inputs[0])
    return keras.tree.map_structure(draw, structure)


def _compare(model: Any, arrays: Any, session: Session) -> None:
    from isogrid.runtime.packing.running import difference

    for rows in (slice(None), slice(0, 1)):
        part = keras.tree.map_structure(lambda array, rows=rows: np.ascontiguousarray(np.asarray(array)[rows]), arrays)
        answer = model(keras.tree.map_structure(keras.ops.convert_to_tensor, part), training=False)
        wanted = [np.asarray(keras.ops.convert_to_numpy(output)) for output in keras.tree.flatten(answer)]
        worst = difference(session.run(keras.tree.flatten(part)), wanted)
        if not worst <= TOLERANCE:
            raise FormatError(
                f"The ONNX file that Keras exported differs from the model by {worst:.2g} of the largest output, and "
                f"at most {TOLERANCE:g} is accepted, so nothing was written."
            )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporters say about themselves from the user: nobody could act on it."""
    names: Sequence[str] = ("tf2onnx", "tensorflow", "jax2onnx", "torch.onnx", "torch.export", "onnxscript", "absl")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
