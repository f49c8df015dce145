"""Random masks in an ONNX file: a stand-in for the sparse model that has not been trained yet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from isogrid.checks import check_sparsity
from isogrid.errors import UnsupportedError
from isogrid.formats.onnx_reading import read_onnx
from isogrid.formats.roles import Role
from isogrid.runtime.packing.files import LARGEST_FILE, make_dense

_FLOATING = ("fp32", "fp16", "fp64")


def mask_randomly(source: Path, target: Path, sparsity: float, *, seed: int = 0) -> int:
    """Write `source` with exactly that share of each target's weights zero, at random; give the zeros they have then.

    Targets are what `isogrid inspect` counts as such: weights of products, convolutions and recurrent layers, without
    depthwise kernels and embedding tables.  How fast a sparse layer is depends on how many zeros it has, and hardly on
    where they are, unless training put them into a pattern.

    Zeros that a target has already count, and where it has more than asked, random ones of them become numbers as large
    as its others.  The file is for the clock only: what it answers means nothing.

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
    check_sparsity("A mask", sparsity)
    names = {
        weight.name for weight in read_onnx(source).weights if weight.role is Role.TARGET and weight.values in _FLOATING
    }
    model = onnx.load(source)
    make_dense(model.graph)
    rng = np.random.default_rng(seed)
    zeros = 0
    masked = False
    for tensor in _stored(model):
        # As `isogrid.export` calls float16 weights.
        if tensor.name.removesuffix(".float16") not in names:
            continue
        array = numpy_helper.to_array(tensor).copy()
        wanted = round(sparsity * array.size)
        _set_zeros(array, wanted, rng)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        zeros += wanted
        masked = True
    if not masked:
        raise UnsupportedError(
            f"{source} has no weights that could be masked: no floating point target is stored in it."
        )
    large = model.ByteSize() > LARGEST_FILE
    onnx.save(model, target, save_as_external_data=large, location=f"{target.name}.data" if large else None)
    return zeros


def _set_zeros(array: NDArray[Any], wanted: int, rng: np.random.Generator) -> None:
    """Give `array` exactly that many zeros, in place."""
    flat = array.reshape(-1)
    zeros, others = np.flatnonzero(flat == 0), np.flatnonzero(flat)
    if wanted >= len(zeros):
        flat[rng.permutation(others)[: wanted - len(zeros)]] = 0
        return
    places = rng.permutation(zeros)[wanted:]
    # Where all are zeros there is no spread to go by.
    drawn = flat[others] if len(others) else np.array([-1, 1], array.dtype) / math.sqrt(max(array.shape[-1], 1))
    flat[places] = rng.choice(drawn, len(places))


def _stored(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    found = list(model.graph.initializer)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            found.append(tensor)
    return found
