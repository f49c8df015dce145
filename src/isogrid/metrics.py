"""Metrics: what the user wants kept, how it is read, and how two models are compared on the same samples."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from isogrid.errors import UndefinedMetricError, UsageError

_Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Metric:
    """How the metric is read: its name, its direction and how its values are written.

    With ``percent`` a value of 0.972 is shown as 97.20 % and differences as points.  Otherwise values are shown as they
    are; ``unit`` follows differences, and values too unless it is ``"pt"``.

    >>> Metric(name="accuracy", higher_is_better=True, unit="pt", percent=True).worse_by(dense=0.97, sparse=0.96)
    0.01
    """

    name: str
    higher_is_better: bool = True
    unit: str = ""
    percent: bool = False

    def worse_by(self, dense: float, sparse: float) -> float:
        """How much worse ``sparse`` is than ``dense``, in metric units; negative if it is better."""
        worse = dense - sparse if self.higher_is_better else sparse - dense
        return _rounded(worse, max(abs(dense), abs(sparse)))

    def at_least(self, value: float, limit: float) -> bool:
        """Whether ``value`` is as good as ``limit`` or better."""
        return self.worse_by(limit, value) <= 0


def _rounded(difference: float, scale: float) -> float:
    """Rounded far below any metric's resolution, so that 0.97 - 0.96 is the 0.01 that people expect.

    >>> _rounded(0.97 - 0.96, 0.97), _rounded(9.7e-20 - 9.6e-20, 9.7e-20)
    (0.01, 1e-21)
    """
    if difference == 0 or not (math.isfinite(difference) and math.isfinite(scale)):
        return difference
    return round(difference, 15 - math.ceil(math.log10(scale)))


ACCURACY = Metric("accuracy", higher_is_better=True, unit="pt", percent=True)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What a model scored on each sample of a split; the metric is their mean.

    Attributes:
        scores: float64 ``[n]``: 0 or 1 for an accuracy, a loss or error otherwise.
        predictions, labels: ``[n]`` classes, where the task has them: they feed the report.

    Raises:
        UsageError: no sample, classes that are no numbers, or lengths that differ.
        UndefinedMetricError: scores that are not finite.

    >>> Outcomes.of_classes(predictions=[1, 2, 2], labels=[1, 2, 3]).value
    0.666...
    """

    scores: npt.NDArray[np.float64]
    predictions: npt.NDArray[np.int64] | None = None
    labels: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, dtype=np.float64).reshape(-1)
        if scores.size == 0:
            raise UsageError("A metric was measured on no sample; accepted is a split of one sample or more.")
        if not np.isfinite(scores).all():
            raise UndefinedMetricError(
                "A metric has scores that are not finite; accepted are finite numbers, one a sample."
            )
        object.__setattr__(self, "scores", scores)
        for name in ("predictions", "labels"):
            classes = getattr(self, name)
            if classes is None:
                continue
            classes = np.asarray(classes).reshape(-1)
            if classes.dtype.kind not in "biuf":
                raise UsageError(f"Outcomes got {name} of {classes.dtype}; accepted are the numbers of the classes.")
            classes = classes.astype(np.int64)
            if classes.size != scores.size:
                raise UsageError(
                    f"Outcomes got {classes.size} {name} for {scores.size} scores; accepted is one a sample."
                )
            object.__setattr__(self, name, classes)

    @classmethod
    def of_classes(cls, predictions: npt.ArrayLike, labels: npt.ArrayLike) -> Outcomes:
        """Outcomes of a classifier: a sample scores 1 where the prediction is the label."""
        predicted, true = np.asarray(predictions).reshape(-1), np.asarray(labels).reshape(-1)
        if predicted.size != true.size:
            raise UsageError(
                f"Outcomes got {predicted.size} predictions for {true.size} labels; accepted is one a label."
            )
        return cls((predicted == true).astype(np.float64), predicted, true)

    @property
    def value(self) -> float:
        """The metric: the mean score."""
        return float(self.scores.mean())

    @property
    def samples(self) -> int:
        return int(self.scores.size)

    @property
    def binary(self) -> bool:
        """Whether every score is 0 or 1."""
        return bool(np.isin(self.scores, (0.0, 1.0)).all())


@dataclass(frozen=True)
class Drop:
    """How much worse the sparse model is, with its paired 95 % interval, in metric units; positive is worse."""

    value: float
    low: float
    high: float
    samples: int


def paired_drop(metric: Metric, dense: Outcomes, sparse: Outcomes) -> Drop:
    """The drop from ``dense`` to ``sparse`` on the same samples.

    For right-or-wrong scores the interval is the adjusted Wald interval for paired proportions (Bonett and Price 2012,
    J. Educ. Behav. Stat. 37(4): one success and one failure added), which stays honest when few or no samples changed;
    for other scores it is the normal interval of the mean difference.

    Raises:
        UsageError: the two were measured on different numbers of samples.

    >>> drop = paired_drop(ACCURACY, Outcomes([1, 1, 1, 0]), Outcomes([1, 1, 0, 0]))
    >>> drop.value, drop.samples
    (0.25, 4)
    """
    if dense.samples != sparse.samples:
        raise UsageError(
            f"A paired comparison needs the same samples, and the models were measured on {dense.samples} and "
            f"{sparse.samples}."
        )
    difference = dense.scores - sparse.scores
    if not metric.higher_is_better:
        difference = -difference
    n = difference.size
    mean = _rounded(float(difference.mean()), float(max(np.abs(dense.scores).max(), np.abs(sparse.scores).max())))
    if dense.binary and sparse.binary:
        worse, better = int((difference > 0).sum()), int((difference < 0).sum())
        p, q = (worse + 1) / (n + 2), (better + 1) / (n + 2)
        centre, half = p - q, _Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
        return Drop(mean, max(-1.0, min(centre - half, mean)), min(1.0, max(centre + half, mean)), n)
    half = _Z95 * float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Drop(mean, mean - half, mean + half, n)


def value_of(measured: Outcomes | float) -> float:
    """The metric of what was measured, with outcomes of the samples or without.

    >>> value_of(Outcomes([1, 0])), value_of(0.5)
    (0.5, 0.5)
    """
    return measured.value if isinstance(measured, Outcomes) else measured


def to_outcomes(measured: Any) -> Outcomes | float:
    """What a user's ``evaluate`` returned, as outcomes, or as a number where it gave nothing to pair.

    Accepted are `Outcomes`, a sequence or array or tensor of per-sample scores, and a single number.

    Raises:
        UsageError: anything else.
        UndefinedMetricError: numbers that are not finite.
    """
    if isinstance(measured, Outcomes):
        return measured
    try:
        # A tensor's own conversion, as numpy has no bfloat16.
        array = np.asarray(measured.detach().cpu().double() if hasattr(measured, "detach") else measured)
    except (TypeError, ValueError):
        array = np.asarray(None)  # ragged, or of no type that numpy knows
    if array.dtype.kind in "biuf":
        if array.ndim > 0:
            return Outcomes(array.astype(np.float64))
        if math.isfinite(float(array)):
            return float(array)
        raise UndefinedMetricError(_unknown(measured))
    raise UsageError(_unknown(measured))


def _unknown(measured: Any) -> str:
    return (
        f"evaluate returned {reprlib.repr(measured)}; accepted are a finite number, per-sample scores, or "
        "isogrid.Outcomes."
    )
