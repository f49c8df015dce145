"""`benchmark`: models beside one another on this machine, their outputs compared before anything is timed."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogrid.checks import check_sparsity
from isogrid.errors import FormatError, IsogridError, UsageError, first_line
from isogrid.formats.numbers import Values, parse_values
from isogrid.formats.onnx_reading import read_onnx
from isogrid.formats.roles import Role
from isogrid.runtime.benchmarking.contestants import Bound, Feeds, in_onnxruntime, in_openvino, quantized
from isogrid.runtime.benchmarking.masking import mask_randomly
from isogrid.runtime.benchmarking.memory import memory_bytes
from isogrid.runtime.benchmarking.result import Benchmark, Row
from isogrid.runtime.packing.constants import Constants
from isogrid.runtime.packing.examples import Examples, read_inputs, run_original
from isogrid.runtime.packing.files import file_bytes, read_model
from isogrid.runtime.packing.packer import pack
from isogrid.runtime.packing.running import difference
from isogrid.runtime.timing import Candidate, race, ratio

DENSE, OURS, INT8, OPENVINO = "ONNX Runtime", "isogrid", "ONNX Runtime int8", "OpenVINO"
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.2}
"""By how much of its largest value an output of ours may differ from that of the weights as they were."""

Say = Callable[[str], None]


@dataclass
class _Entry:
    """One contestant before the race."""

    who: str
    file: str
    path: str
    sparsity: float
    bound: Bound
    wanted: list[Any] | None
    masked: bool = False
    note: str = ""


def benchmark(
    models: Sequence[str | os.PathLike[str]],
    *,
    at: Iterable[float] = (),
    threads: int | None = None,
    batch: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: str | os.PathLike[str] | None = None,
    values: Values = "fp32",
    rivals: bool = True,
    seconds: float = 10.0,
    say: Say | None = None,
) -> Benchmark:
    """Time ONNX models on this machine: as they are, packed, and in what else runs them.

    The first model in plain ONNX Runtime is the baseline.  Beside each model that is not packed stand its packed self,
    ONNX Runtime's 8-bit quantisation of it (the faster of its two ways) and OpenVINO, if installed.  Contestants take
    turns for the given time; medians and the intervals of ratios within a round are reported.

    Args:
        models: ``.onnx`` files with the same inputs; a dense one and its sparse self, for instance.
        at: sparsities at which the first model is tried with random masks: what retraining to them would buy.  Zeros
            that it has already count, and surplus ones become random numbers, as only the clock looks at these copies.
        threads: of a call; by default as many as there are cores.
        batch: samples of a call, where the model leaves that open.
        shapes: whole shapes of inputs by name, as for `isogrid.runtime.pack`.
        inputs: real inputs, an ``.npz`` file with an array for each input.
        values: number format of packed weights.
        rivals: whether the quantised model and OpenVINO take part.
        seconds: of the race, about.
        say: told what is being done.

    Raises:
        UsageError: no model, a file that is none, or an option that is not accepted.
        FormatError: a model that cannot be run, or a packed one whose outputs differ from its own unpacked ones.
        MissingDependencyError: onnx or onnxruntime is not installed.

    >>> benchmark(["model.onnx"], at=[0.8, 0.9]).show(Console())                     # doctest: +SKIP
    """
    if not models:
        raise UsageError("benchmark got no model; an .onnx file is needed.")
    cores = os.cpu_count() or 1
    threads = cores if threads is None else threads
    if threads < 1 or not 0 < seconds < math.inf:
        raise UsageError(f"benchmark got threads {threads} and seconds {seconds:g}; accepted are numbers above 0.")
    if batch < 1:
        raise UsageError(f"batch got {batch}; accepted is 1 or more.")
    parse_values(values)
    sparsities = list(at)
    for sparsity in sparsities:
        check_sparsity("--at", sparsity)
    for model in models:
        if not Path(model).is_file():
            raise UsageError(f"{os.fspath(model)} is not a file; an .onnx file is needed.")
    with tempfile.TemporaryDirectory(prefix="isogrid-") as folder:
        job = _Job(Path(folder), threads, batch, shapes, inputs, values, say or (lambda _: None))
        for number, model in enumerate(models):
            job.enter(Path(model), number, rivals)
        for sparsity in sparsities:
            job.enter_masked(Path(models[0]), sparsity)
        return job.race(seconds)


class _Job:
    """One call of `benchmark`."""

    def __init__(
        self, folder: Path, threads: int, batch: int, shapes: Mapping[str, Sequence[int]] | None,
        inputs: str | os.PathLike[str] | None, values: Values, say: Say,
    ) -> None:  # fmt: skip
        self.folder, self.threads, self.batch, self.values, self.say = folder, threads, batch, values, say
        self.shapes, self.inputs = shapes, inputs
        self.entries: list[_Entry] = []
        self.notes: list[str] = []
        self.feeds: Feeds = {}

    def enter(self, model: Path, number: int, rivals: bool) -> None:
        """A model that was given, and what is made of it."""
        source = read_model(model)
        packed = any(node.domain == "isogrid" for node in source.proto.graph.node)
        if not number:
            graph = source.model()
            examples = Examples(graph, Constants(graph), self.batch, self.shapes)
            self.feeds = examples.draw() if self.inputs is None else read_inputs(self.inputs, examples.inputs)
            sizes = {array.shape[0] for array in self.feeds.values() if array.ndim}
            self.batch = sizes.pop() if len(sizes) == 1 else self.batch
        sparsity = _sparsity(model)
        self.say(f"{model.name}: preparing")
        bound = run_original(
            lambda feeds: [in_onnxruntime(str(model), feeds, self.threads)], dict(self.feeds), given=bool(self.inputs)
        )[0]
        who = f"{DENSE} with isogrid" if packed else DENSE
        self.entries.append(_Entry(who, model.name, str(model), sparsity, bound, None))
        if packed:
            return
        self._enter_packed(model, model.name, sparsity, bound.outputs)
        if rivals and not number:
            self._enter_quantized(model, sparsity, bound.outputs)
            self._enter_openvino(model, sparsity, bound.outputs)

    def enter_masked(self, model: Path, sparsity: float) -> None:
        """The model with random masks."""
        self.say(f"{model.name}: random masks of {100 * sparsity:g} %")
        target = self.folder / f"random-{sparsity:g}.onnx"
        mask_randomly(model, target, sparsity)
        wanted = in_onnxruntime(str(target), self.feeds, self.threads).outputs
        # Targets that are not stored as floating point numbers are left, so that it need not be the one asked for.
        self._enter_packed(target, model.name, _sparsity(target), wanted, masked=True)

    def _enter_packed(
        self, model: Path, name: str, sparsity: float, wanted: list[Any], *, masked: bool = False
    ) -> None:
        target = self.folder / f"packed-{len(self.entries)}.onnx"
        report = pack(
            model, target, values=self.values, batch=self.batch, shapes={n: a.shape for n, a in self.feeds.items()}
        )
        if not report.packed:
            at = f" at {100 * sparsity:.3g} %" if masked else ""
            self.notes.append(f"Packing {name}{at} gains nothing: no layer that can be packed has enough zeros.")
            return
        bound = in_onnxruntime(str(target), self.feeds, self.threads)
        found = difference(bound.outputs, wanted)
        if not found <= TOLERANCE[self.values]:
            raise FormatError(
                f"{name}, packed, differs from itself by {found:.2g} of the largest output, and at most "
                f"{TOLERANCE[self.values]:g} is accepted, so nothing was timed; please report this model."
            )
        note = "" if self.values == "fp32" else f"{self.values} weights"
        self.entries.append(_Entry(OURS, name, str(target), sparsity, bound, wanted, masked, note))

    def _enter_quantized(self, model: Path, sparsity: float, wanted: list[Any]) -> None:
        ready = []
        for label, path in quantized(str(model), self.folder, self.feeds):
            try:
                bound = in_onnxruntime(path, self.feeds, self.threads)
            except IsogridError as problem:
                self.notes.append(f"{INT8} ({label}) takes no part: {first_line(problem)}.")
                continue
            ready.append(_Entry(INT8, model.name, path, sparsity, bound, wanted, note=label))
        if not ready:
            self.notes.append(f"{INT8} takes no part: this model could not be quantised.")
            return
        samples = race(
            {entry.note: Candidate(entry.bound, self.threads) for entry in ready},
            seconds=0.0, least_rounds=5,
        )  # fmt: skip
        self.entries.append(min(ready, key=lambda entry: samples[entry.note].median))

    def _enter_openvino(self, model: Path, sparsity: float, wanted: list[Any]) -> None:
        try:
            bound = in_openvino(str(model), self.feeds, self.threads)
        except ImportError:
            self.notes.append("OpenVINO takes no part: it is not installed (pip install openvino).")
            return
        except Exception as problem:
            self.notes.append(f"OpenVINO takes no part: {first_line(problem)}.")
            return
        self.entries.append(_Entry(OPENVINO, model.name, str(model), sparsity, bound, wanted))

    def race(self, seconds: float) -> Benchmark:
        """Time everybody, then see how much memory each takes."""
        self.say(f"{len(self.entries)} take turns for about {seconds:g} s")
        order = range(len(self.entries))
        samples = race(
            {number: Candidate(self.entries[number].bound, self.threads) for number in order},
            seconds=seconds, least_rounds=7, most_rounds=201,
        )  # fmt: skip
        self.say("memory")
        rows = []
        for number, entry in enumerate(self.entries):
            foreign = entry.who == OPENVINO
            rows.append(
                Row(
                    who=entry.who,
                    file=entry.file,
                    sparsity=entry.sparsity,
                    masked=entry.masked,
                    ours=OURS in entry.who,
                    sample=samples[number],
                    speedup=ratio(samples[0], samples[number]) if number else None,
                    difference=None if entry.wanted is None else difference(entry.bound.outputs, entry.wanted),
                    bytes=file_bytes(Path(entry.path)),
                    memory=None if foreign else memory_bytes(entry.path, self.feeds, self.threads),
                    note=entry.note,
                )
            )
        return Benchmark(tuple(rows), self.threads, self.batch, tuple(self.notes))


def _sparsity(model: Path) -> float:
    targets = [weight for weight in read_onnx(model).weights if weight.role is Role.TARGET]
    size = sum(math.prod(weight.shape) for weight in targets)
    return 1 - sum(weight.nonzeros for weight in targets) / size if size else 0.0
