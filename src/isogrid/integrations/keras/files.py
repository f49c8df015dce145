"""Reading the state of a sparse training out of a file that Keras saved the model to."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from isogrid.errors import SparsifierError
from isogrid.integrations.keras.riding import STATE

_WEIGHTS = "model.weights.h5"


def read_state(path: str | Path) -> dict[str, Any]:
    """The arrays of the state that a ``.keras`` or ``.weights.h5`` file holds, by the names they were stored under.

    Raises:
        SparsifierError: there is no such file, or it holds no state of a sparse training.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise SparsifierError(f"{path} is no file; resume= names a .keras or .weights.h5 file that Keras saved.")
    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            return _arrays(file, path)
    with zipfile.ZipFile(path) as archive:
        if _WEIGHTS not in archive.namelist():
            raise SparsifierError(f"{path} holds no {_WEIGHTS}; accepted are files that model.save() wrote.")
        with archive.open(_WEIGHTS) as member, h5py.File(member, "r") as file:
            return _arrays(file, path)


def _arrays(file: Any, path: Path) -> dict[str, Any]:
    group = file.get("optimizer")
    while group is not None and STATE not in group:
        group = group.get("inner_optimizer")
    if group is None:
        raise SparsifierError(
            f"{path} holds no state of a sparse training; save the model while a Sparsify callback trains it, with its "
            "optimiser."
        )
    stored = group[STATE]["vars"]
    return {name: stored[name][()] for name in stored}
