"""How fast the balance point runs: the dense, the sparse and the packed file in ONNX Runtime, taking turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import IsogridError, UnsupportedError, UsageError
from isogrid.formats.numbers import Values
from isogrid.report.data import Speed, SpeedRow
from isogrid.runtime.benchmarking.contestants import Feeds, in_onnxruntime
from isogrid.runtime.session import Session
from isogrid.runtime.timing import Candidate, race, ratio

BATCHES = (1, 64)
_SECONDS = 1.0
_THREADS = 1
"""The models of a run may be small, and a second thread would measure how fast it wakes up."""


def write_packed(source: Path, target: Path, values: Values, example: Sequence[NDArray[Any]]) -> int | None:
    """The packed form of a written model: its bytes, or None where no layer would gain, and then no file."""
    from isogrid.runtime.packing.packer import pack

    # The larger batch decides: what pays there pays more for one sample.
    shapes = Session(source, threads=1).shapes_of(example, batch=BATCHES[-1])
    report = pack(source, target, values=values, shapes=shapes)
    if report.packed:
        return report.bytes_after
    target.unlink()
    return None


def measure_speed(
    export_dense: Callable[[Path], object], files: Mapping[str, Path], example: Sequence[NDArray[Any]]
) -> Speed | None:
    """Times of the dense model and of the `files` by what they are called, for one sample and for a batch.

    `export_dense` writes the dense model as a plain ONNX file.  None where the model cannot be fed with batches of
    these sizes.
    """
    with tempfile.TemporaryDirectory(prefix="isogrid-") as folder:
        baseline = Path(folder, "dense.onnx")
        try:
            export_dense(baseline)
        except (UnsupportedError, UsageError):
            return None
        every = {"dense": baseline, **files}
        rows: list[SpeedRow] = []
        for batch in BATCHES:
            try:
                rows += _raced(every, _feeds(baseline, example, batch), batch)
            except IsogridError:
                continue
    return Speed(threads=_THREADS, rows=rows) if rows else None


def _raced(files: Mapping[str, Path], feeds: Feeds, batch: int) -> list[SpeedRow]:
    bound = {name: in_onnxruntime(str(path), feeds, _THREADS) for name, path in files.items()}
    samples = race({name: Candidate(call, _THREADS) for name, call in bound.items()}, seconds=_SECONDS, least_rounds=9)
    rows = []
    for name, sample in samples.items():
        faster = ratio(samples["dense"], sample)
        rows.append(
            SpeedRow(
                model=name,
                batch=batch,
                milliseconds=1e3 * sample.median,
                low=1e3 * sample.quartiles[0],
                high=1e3 * sample.quartiles[1],
                times=faster.median,
                times_low=faster.low,
                times_high=faster.high,
            )
        )
    return rows


def _feeds(model: Path, example: Sequence[NDArray[Any]], batch: int) -> Feeds:
    ports = Session(model, threads=1).inputs
    if len(ports) != len(example):
        raise UsageError("The example has other inputs than the file.")
    return {port.name: array[np.arange(batch) % len(array)] for port, array in zip(ports, example, strict=True)}
