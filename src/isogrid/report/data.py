"""What a report is made of: plain numbers, no tensors, saved as ``report.json``.

Sequences may be given as lists, tuples or numpy arrays; ``ReportData.from_json`` gives tuples.  Sparsities are
fractions from 0 to 1, sizes are bytes, metric values are as the task measured them (an accuracy is a fraction, not a
percentage).  Values that contradict each other raise UsageError where they are built and FormatError where they are
read from a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from isogrid.errors import FormatError, UsageError
from isogrid.metrics import Metric
from isogrid.report.codec import decode, encode

Precision = Literal["fp32", "fp16", "int8"]
State = Literal["held", "broken", "unresolved", "untested"]

FORMAT = "isogrid-report"
VERSION = 1


def _check(holds: bool, sentence: str) -> None:
    if not holds:
        raise UsageError(sentence)


def _check_fraction(name: str, value: float) -> None:
    _check(0 <= value <= 1, f"{name} is {value}, and it must be between 0 and 1.")


@dataclass(frozen=True)
class Floor:
    """The accuracy floor: the user's own words, the metric value it comes to, and the dense validation metric.

    >>> Floor(text="0.5pt", limit=0.967, baseline=0.972).limit
    0.967
    """

    text: str
    limit: float
    baseline: float


@dataclass(frozen=True)
class Verdict:
    """What the test split says: the drop with its paired 95 % interval, in metric units, positive meaning worse.

    Without a test split the state is ``"untested"`` and the numbers mean nothing.  With ``samples`` of 0 the task gave
    one number for the whole split: there is no interval, and ``low`` and ``high`` are the drop.

    >>> Verdict(state="held", drop=0.002, low=-0.001, high=0.004, allowed=0.005, samples=10_000).state
    'held'
    """

    state: State
    drop: float
    low: float
    high: float
    allowed: float
    samples: int

    def __post_init__(self) -> None:
        _check(
            self.low <= self.high,
            f"The interval [{self.low}, {self.high}] must not end before it begins.",
        )


@dataclass(frozen=True)
class ModelSummary:
    """One model, dense or at the balance point: its metrics, its zeros and its size.

    ``sparsity`` is of the targets, ``sparsity_of_model`` of all parameters, ``bytes`` of the smallest file written and
    ``files`` the size of each file by name.  A metric is None where it was not measured.

    >>> ModelSummary(
    ...     test_metric=0.97, validation_metric=0.972, train_metric=None, sparsity=0.0, sparsity_of_model=0.0,
    ...     nonzeros=7510, parameters=7510, bytes=30_412, precision="fp32", files={"model.onnx": 31_002},
    ... ).nonzeros
    7510
    """

    test_metric: float | None
    validation_metric: float
    train_metric: float | None
    sparsity: float
    sparsity_of_model: float
    nonzeros: int
    parameters: int
    bytes: int
    precision: Precision
    files: Mapping[str, int]

    def __post_init__(self) -> None:
        _check_fraction("A model's sparsity", self.sparsity)
        _check_fraction("A model's sparsity_of_model", self.sparsity_of_model)
        _check(
            0 <= self.nonzeros <= self.parameters,
            f"A model of {self.parameters} parameters cannot have {self.nonzeros} nonzeros.",
        )
        _check(
            self.bytes >= 0,
            f"A model's bytes are {self.bytes}, and they cannot be negative.",
        )


@dataclass(frozen=True)
class Point:
    """One measured trade-off: a rung of the ladder at one precision, with the metric on the validation split.

    ``latency`` is the cost model's estimate of the milliseconds of a call, None where there is none.

    >>> Point(
    ...     rung=3, sparsity=0.9, sparsity_of_model=0.88, nonzeros=900, precision="int8", metric=0.97, bytes=2_100,
    ...     holds=True, chosen=True, on_frontier=True,
    ... ).precision
    'int8'
    """

    rung: int
    sparsity: float
    sparsity_of_model: float
    nonzeros: int
    precision: Precision
    metric: float
    bytes: int
    holds: bool
    chosen: bool
    on_frontier: bool
    latency: float | None = None

    def __post_init__(self) -> None:
        _check_fraction("A point's sparsity", self.sparsity)
        _check_fraction("A point's sparsity_of_model", self.sparsity_of_model)
        _check(
            self.nonzeros >= 0 and self.bytes >= 0,
            "A point's nonzeros and bytes cannot be negative.",
        )


@dataclass(frozen=True)
class SpeedRow:
    """A model of the run in ONNX Runtime: ``"dense"``, ``"sparse"`` or ``"packed"``, with ``batch`` samples a call.

    ``low`` and ``high`` are the quartiles of its milliseconds; ``times`` is how many times faster than dense it is,
    with a 95 % interval.

    >>> SpeedRow("packed", batch=64, milliseconds=0.2, low=0.1, high=0.3, times=3, times_low=2, times_high=4).times
    3
    """

    model: str
    batch: int
    milliseconds: float
    low: float
    high: float
    times: float
    times_low: float
    times_high: float

    def __post_init__(self) -> None:
        _check(
            0 < self.low <= self.milliseconds <= self.high and 0 < self.times_low <= self.times <= self.times_high,
            f"The times of the {self.model} model must be positive, and medians within their intervals.",
        )


@dataclass(frozen=True)
class Speed:
    """What was timed on the machine of the run, the models taking turns.

    >>> Speed(threads=1, rows=[]).threads
    1
    """

    threads: int
    rows: Sequence[SpeedRow]


@dataclass(frozen=True)
class TrainingCost:
    """Floating-point operations of training: of the dense model, of the balance point's, and of the whole run.

    A model's are those of all phases that its weights went through, zeros taken off.

    >>> TrainingCost(dense=3e12, balance=4e12, run=9e12).run
    9000000000000.0
    """

    dense: float
    balance: float
    run: float

    def __post_init__(self) -> None:
        _check(min(self.dense, self.balance, self.run) >= 0, "The operations of training cannot be negative.")


@dataclass(frozen=True)
class Histogram:
    """Counts of weights between neighbouring ``edges`` (weight values, ascending); exact zeros are left out.

    >>> Histogram(edges=[-0.1, 0.0, 0.1], counts=[12, 9]).total
    21
    """

    edges: Sequence[float]
    counts: Sequence[int]

    def __post_init__(self) -> None:
        _check(
            len(self.edges) == len(self.counts) + 1 >= 2,
            f"A histogram of {len(self.counts)} counts needs one edge more, not {len(self.edges)}.",
        )
        ascending = all(self.edges[i] < self.edges[i + 1] for i in range(len(self.counts)))
        _check(ascending, "A histogram's edges must ascend.")
        _check(min(self.counts) >= 0, "A histogram's counts cannot be negative.")

    @property
    def total(self) -> int:
        """The number of weights counted."""
        return int(sum(self.counts))


@dataclass(frozen=True)
class LayerRow:
    """One pruned layer at the balance point, with its weights before and after.

    ``units`` are its outputs and ``dead_units`` those whose every weight is zero.

    >>> half = Histogram(edges=[-1.0, 0.0, 1.0], counts=[1, 1])
    >>> LayerRow(
    ...     name="fc1.weight", shape=[2, 2], parameters=4, nonzeros=2, sparsity=0.5, dead_units=1, units=2,
    ...     dense_histogram=half, sparse_histogram=half,
    ... ).sparsity
    0.5
    """

    name: str
    shape: Sequence[int]
    parameters: int
    nonzeros: int
    sparsity: float
    dead_units: int
    units: int
    dense_histogram: Histogram
    sparse_histogram: Histogram

    def __post_init__(self) -> None:
        _check_fraction(f"The sparsity of layer {self.name}", self.sparsity)
        _check(
            0 <= self.nonzeros <= self.parameters,
            f"Layer {self.name} of {self.parameters} parameters cannot have {self.nonzeros} nonzeros.",
        )
        _check(
            0 <= self.dead_units <= self.units,
            f"Layer {self.name} of {self.units} units cannot have {self.dead_units} dead ones.",
        )


@dataclass(frozen=True)
class ActivationRow:
    """The fraction of a layer's outputs that are exactly zero, in the dense and in the sparse model.

    >>> ActivationRow(layer="relu1", dense_sparsity=0.42, sparse_sparsity=0.61).sparse_sparsity
    0.61
    """

    layer: str
    dense_sparsity: float
    sparse_sparsity: float

    def __post_init__(self) -> None:
        _check_fraction(f"The dense_sparsity of {self.layer}", self.dense_sparsity)
        _check_fraction(f"The sparse_sparsity of {self.layer}", self.sparse_sparsity)


@dataclass(frozen=True)
class InputUse:
    """Surviving connections of each input feature; ``shape`` is (height, width) when the features are an image.

    >>> InputUse(counts=[0, 3, 5, 1], shape=(2, 2)).unused
    1
    """

    counts: Sequence[int]
    shape: tuple[int, int] | None

    def __post_init__(self) -> None:
        _check(len(self.counts) > 0, "Input use needs at least one feature.")
        _check(min(self.counts) >= 0, "Input use cannot count fewer than 0 connections.")
        if self.shape is not None:
            height, width = self.shape
            _check(
                height > 0 and width > 0 and height * width == len(self.counts),
                f"An image of {height} x {width} does not have {len(self.counts)} features.",
            )

    @property
    def unused(self) -> int:
        """The number of features that no connection reads."""
        return sum(1 for count in self.counts if count == 0)


@dataclass(frozen=True)
class ClassRow:
    """The metric on the test samples of one class, dense and sparse.

    >>> ClassRow(name="seven", samples=36, dense=1.0, sparse=0.97).samples
    36
    """

    name: str
    samples: int
    dense: float
    sparse: float


@dataclass(frozen=True)
class ChangedExample:
    """A test sample on which the two models disagree, with its picture (rows of grey values) where it has one.

    >>> ChangedExample(index=17, label="3", dense="3", sparse="8", image=[[0.0, 1.0], [1.0, 0.0]]).sparse
    '8'
    """

    index: int
    label: str
    dense: str
    sparse: str
    image: Sequence[Sequence[float]] | None

    def __post_init__(self) -> None:
        if self.image is not None:
            widths = {len(row) for row in self.image}
            _check(
                len(widths) == 1 and widths != {0},
                f"The image of sample {self.index} must be a full rectangle.",
            )


@dataclass(frozen=True)
class Changes:
    """How the answers on the test split changed: ``fixed`` became right, ``broken`` became wrong; up to 24 examples.

    >>> Changes(both_right=345, both_wrong=6, fixed=4, broken=5, examples=[]).fixed
    4
    """

    both_right: int
    both_wrong: int
    fixed: int
    broken: int
    examples: Sequence[ChangedExample]


@dataclass(frozen=True)
class TrainingPoint:
    """One record of training; ``phase`` is ``"dense"`` or the rung, ``sparsity`` is of the targets.

    >>> TrainingPoint(step=100, phase="dense", loss=0.31, metric=None, sparsity=0.0).phase
    'dense'
    """

    step: int
    phase: str
    loss: float
    metric: float | None
    sparsity: float

    def __post_init__(self) -> None:
        _check_fraction(f"The sparsity at step {self.step}", self.sparsity)


@dataclass(frozen=True)
class ReportData:
    """All that the terminal table and the HTML page show of a run.

    ``created`` is an ISO date, ``seconds`` the time the run took, ``versions`` name to version.  ``layers``,
    ``activations``, ``classes`` and ``history`` may be empty; ``inputs``, ``changes``, ``speed`` and ``training`` may
    be None.
    """

    title: str
    task: str
    command: str
    created: str
    seed: int
    versions: Mapping[str, str]
    seconds: float
    metric: Metric
    floor: Floor
    verdict: Verdict
    dense: ModelSummary
    balance: ModelSummary
    points: Sequence[Point]
    layers: Sequence[LayerRow]
    activations: Sequence[ActivationRow]
    inputs: InputUse | None
    classes: Sequence[ClassRow]
    changes: Changes | None
    history: Sequence[TrainingPoint]
    speed: Speed | None = None
    training: TrainingCost | None = None

    def __post_init__(self) -> None:
        chosen = sum(1 for point in self.points if point.chosen)
        _check(chosen <= 1, f"A report has at most one chosen point, not {chosen}.")
        measured = self.dense.test_metric is not None and self.balance.test_metric is not None
        _check(
            measured or self.verdict.state == "untested",
            f'A verdict of "{self.verdict.state}" needs the test metric of both models.',
        )

    @property
    def chosen(self) -> Point | None:
        """The balance point among ``points``, or None if no point was chosen."""
        return next((point for point in self.points if point.chosen), None)

    @property
    def compression(self) -> float:
        """How many times smaller the balance point's smallest file is than the dense model's."""
        return self.dense.bytes / max(self.balance.bytes, 1)

    def to_json(self) -> str:
        """Return the report as one line of JSON.

        Raises UsageError if a number is not finite; numpy numbers and arrays are welcome.
        """
        document = {
            "format": FORMAT,
            "version": VERSION,
            "report": encode(self, "report"),
        }
        return json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> ReportData:
        """Return the report that ``to_json`` wrote; raises FormatError if it is damaged or of another version.

        >>> ReportData.from_json("{}")
        Traceback (most recent call last):
        isogrid.errors.FormatError: This is not a report: it does not say "format": "isogrid-report".
        """
        try:
            document: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"The report is not valid JSON ({error}).") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise FormatError(f'This is not a report: it does not say "format": "{FORMAT}".')
        if document.get("version") != VERSION:
            arrived = str(document.get("version"))[:20]
            raise FormatError(f"The report is of version {arrived}, and this program reads version {VERSION}.")
        report: ReportData = decode(cls, document.get("report"), "report")
        return report
