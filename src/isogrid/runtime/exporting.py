"""`isogrid.export`: a PyTorch model as an ONNX file, standard or packed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from isogrid.formats import onnx
from isogrid.formats.numbers import Values
from isogrid.formats.weights import Selection
from isogrid.runtime.session import Session


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example: Tensor | Sequence[Any],
    *,
    packed: bool = False,
    values: Values = "fp32",
    targets: Selection = None,
    ignore: Selection = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    free_axes: onnx.FreeAxes | None = None,
    opset: int | None = None,
) -> int:
    """Write `model`, in evaluation mode, as an ONNX file with sparse weights; give the number of bytes.

    A standard file runs in any ONNX runtime and is small; a packed one (see `isogrid.runtime.pack`) is fast too, in
    ONNX Runtime with this package's operators.  Where no layer would gain, the packed file is a standard one.

    How weights are stored in a standard file is told in `isogrid.formats.onnx_weights`: each in the fewest bytes, and
    exactly.  With ``values="fp16"`` or ``"int8"`` a copy of the model is rounded first, as `isogrid.quantize` does.
    The metadata of the file has ``isogrid.version``, ``isogrid.values``, ``isogrid.sparsity`` and
    ``isogrid.sparsity_of_model``.

    Args:
        model: left as it is; its wrappers (``torch.compile``, DDP, averaged models) are seen through.
        path: the file; written whole or not at all.
        example: a tensor, or the sequence of the model's positional arguments.
        packed: for the native kernels; whether a layer gains is judged for inputs of the example's sizes.
        values: number format of the weights.
        targets, ignore: which weights are rounded and counted, as in `isogrid.save`.
        input_names, output_names: names in the graph; by default those of ``forward`` and of the graph.
        dynamic_batch: leave axis 0 of every input tensor free (one size for all), named ``batch``.
        free_axes: further axes to leave free, by input and axis, with a name for each: ``{"ids": {1: "length"}}``.
            Inputs are called as in `input_names`, or else as in ``forward``.  The example needs a size of 2 or more
            there.
        opset: ONNX operator set; by default that of the installed exporter.

    Raises:
        UsageError: an unknown number format, an example that the model does not run on, no batch axis to leave free, or
            free axes that the example does not have.
        UnsupportedError: PyTorch cannot export the model, or not to this operator set, or the file would pass 2 GB; a
            weight cannot be rounded.
        TrainingError: a weight that is to be rounded is not finite.
        FormatError: the packed model's outputs differ from the standard one's; nothing is written.
        MissingDependencyError: onnx or onnxscript is not installed (for packed files, or onnxruntime).
        RunError: the file cannot be written.

    >>> import torch
    >>> layer = nn.Linear(512, 512).requires_grad_(False)
    >>> _ = layer.weight[:, 20:].zero_()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = export(layer, folder + "/packed.onnx", torch.zeros(8, 512), packed=True)
    ...     size == os.path.getsize(folder + "/packed.onnx")
    True

    Sequences of any length:

    >>> example = torch.zeros(2, 5, 512)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = export(layer, folder + "/free.onnx", example, free_axes={"input": {1: "length"}})
    ...     Session(folder + "/free.onnx")(torch.ones(3, 9, 512).numpy())[0].shape
    (3, 9, 512)
    """
    options: dict[str, Any] = {
        "values": values, "targets": targets, "ignore": ignore, "input_names": input_names,
        "output_names": output_names, "dynamic_batch": dynamic_batch, "free_axes": free_axes, "opset": opset,
    }  # fmt: skip
    if not packed:
        return onnx.export(model, path, example, **options)
    from isogrid.runtime.packing.packer import pack

    with tempfile.TemporaryDirectory(prefix="isogrid-") as folder:
        standard = Path(folder, "standard.onnx")
        onnx.export(model, standard, example, **options)
        tensors = [part for part in ([example] if isinstance(example, Tensor) else example) if isinstance(part, Tensor)]
        # From its bytes, as the name of a file that is gone tells nobody anything.
        shapes = Session(standard.read_bytes(), threads=1).shapes_of(tensors)
        return pack(standard, path, values=values, shapes=shapes).bytes_after
