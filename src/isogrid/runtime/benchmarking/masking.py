"""Random masks in an ONNX file: a stand-in for the sparse model that has not been trained yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from isogrid.errors import UnsupportedError, UsageError
from isogrid.formats.onnx_reading import read_onnx
from isogrid.formats.roles import Role
from isogrid.runtime.packing.files import LARGEST_FILE

_FLOATING = ("fp32", "fp16", "fp64")


def mask_randomly(source: Path, target: Path, sparsity: float, *, seed: int = 0) -> int:
    """Write `source` with exactly that share of each target's weights set to zero, at random; give the zeros made.

    Targets are what `isogrid inspect` counts as such: weights of products, convolutions and recurrent layers, without
    depthwise kernels and embedding tables.  How fast a sparse layer is depends on how many zeros it has, and hardly on
    where they are, unless training put them into a pattern.

    Args:
        source: an ONNX file whose targets are stored as floating point numbers.
        target: the file to write.
        sparsity: 0 up to, and not including, 1.
        seed: of the places.

    Raises:
        UsageError: the sparsity, or the source cannot be read.
        UnsupportedError: there is nothing to mask.

    >>> mask_randomly(Path("dense.onnx"), Path("sparse.onnx"), 0.9)                  # doctest: +SKIP
    """
    if not 0.0 <= sparsity < 1.0:
        raise UsageError(f"A sparsity got {sparsity:g}; accepted are numbers from 0 up to, and not including, 1.")
    names = {
        weight.name for weight in read_onnx(source).weights if weight.role is Role.TARGET and weight.values in _FLOATING
    }
    model = onnx.load(source)
    rng = np.random.default_rng(seed)
    zeros = 0
    masked = False
    for tensor in _stored(model):
        if tensor.name not in names:
            continue
        array = numpy_helper.to_array(tensor).copy()
        places = rng.permutation(array.size)[: round(sparsity * array.size)]
        array.reshape(-1)[places] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        zeros += len(places)
        masked = True
    if not masked:
        raise UnsupportedError(
            f"{source} has no weights that could be masked: no floating point target is stored in it."
        )
    large = model.ByteSize() > LARGEST_FILE
    onnx.save(model, target, save_as_external_data=large, location=f"{target.name}.data" if large else None)
    return zeros


def _stored(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    found = list(model.graph.initializer)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            found.append(tensor)
    return found
