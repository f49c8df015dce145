"""A quick answer from a file: `isogrid run`."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import UsageError
from isogrid.formats.files import write_atomically
from isogrid.runtime.packing.constants import Constants
from isogrid.runtime.packing.examples import Examples, read_inputs
from isogrid.runtime.packing.files import read_model
from isogrid.runtime.session import Session


def answer(
    model: str | os.PathLike[str],
    *,
    inputs: str | os.PathLike[str] | None = None,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The outputs of an ONNX model, packed or not, by name: arrays, and lists and maps where it gives those.

    Args:
        model: the file.
        inputs: an ``.npz`` file with an array for each input; without it they are random.
        batch, shapes: of random inputs, as for `isogrid.runtime.pack`.
        threads: of the call; by default as many as ONNX Runtime takes.
        seed: of random inputs.

    Raises:
        UsageError: no such file, or inputs that do not fit.
        FormatError: a model that ONNX Runtime refuses.

    >>> answer("model.onnx")["logits"].shape                                         # doctest: +SKIP
    (1, 10)
    """
    graph = read_model(model).model()
    examples = Examples(graph, Constants(graph), batch, shapes)
    feeds = examples.draw(seed) if inputs is None else read_inputs(inputs, examples.inputs)
    session = Session(model, threads=threads)
    names = [port.name for port in session.outputs]
    return dict(zip(names, session.run(feeds), strict=True))


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write arrays as ``.npz``, whole or not at all; text as arrays of strings.

    Raises:
        UsageError: one is a list or a map.
        RunError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_arrays(folder + "/y.npz", {"y": np.ones(2)})
    ...     np.load(folder + "/y.npz")["y"]
    array([1., 1.])
    """
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    data = io.BytesIO()
    # np.savez takes names as arguments, among which it has some of its own.
    with zipfile.ZipFile(data, "w") as file:
        for name, array in plain.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    write_atomically(path, data.getvalue())


def _plain(name: str, array: Any) -> NDArray[Any]:
    """An array that a file can hold."""
    if not isinstance(array, (np.ndarray, np.generic)):
        raise UsageError(f"{name} is a {type(array).__name__}, which .npz has no place for; accepted are arrays.")
    plain = np.asarray(array)
    return plain.astype(np.str_) if plain.dtype == object else plain
