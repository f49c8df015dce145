"""How sure a classifier is, and where the sparse one is less sure than the dense one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from isogrid.evaluating import evaluating
from isogrid.tasks import Task

_BINS = 15
_SHOWN = 10


@dataclass(frozen=True)
class Confidence:
    """What a classifier says of itself on one split.

    Attributes:
        accuracy: share of right answers.
        mean: mean probability of the answer given.
        error: expected calibration error: how far the two differ, over 15 bins of probability (Guo et al. 2017,
            arXiv:1706.04599, eq. 3).
    """

    accuracy: float
    mean: float
    error: float


@dataclass(frozen=True)
class ConfidenceChange:
    """Both models' confidence on the same samples.

    Attributes:
        dense, sparse: what each says of itself.
        samples: how many were looked at.
        turned: share of samples that get another answer.
        lost: positions of samples whose right class lost most probability, the first the most, and how much it lost.
    """

    dense: Confidence
    sparse: Confidence
    samples: int
    turned: float
    lost: tuple[tuple[int, float], ...]


def probabilities(
    task: Task, model: nn.Module, batches: Iterable[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """The softmax of the model's answers ``[n, classes]`` and the true classes; None where there are no classes."""
    told, true = [], []
    with evaluating(model):
        for batch in batches:
            classes, answer = task.classes(batch), task.forward(model, batch)
            if classes is None or answer.ndim != 2 or answer.shape[1] < 2 or len(answer) != len(classes):
                return None
            if not bool(((classes >= 0) & (classes < answer.shape[1])).all()):
                return None  # labels such as -100 say that there is none
            told.append(torch.softmax(answer.double(), dim=1).cpu().numpy())
            true.append(classes.cpu().numpy().astype(np.int64))
    return np.concatenate(told), np.concatenate(true)


def confidence(told: NDArray[np.float64], true: NDArray[np.int64]) -> Confidence:
    """What `probabilities` come to.

    >>> found = confidence(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]))
    >>> found.accuracy, round(found.mean, 6), round(found.error, 6)
    (0.5, 0.9, 0.4)
    """
    best = told.max(axis=1)
    right = told.argmax(axis=1) == true
    bins = np.minimum((best * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float(right[bins == one].sum() - best[bins == one].sum())) for one in range(_BINS)]
    return Confidence(float(right.mean()), float(best.mean()), sum(gaps) / len(true))


def confidence_change(
    dense: NDArray[np.float64], sparse: NDArray[np.float64], true: NDArray[np.int64]
) -> ConfidenceChange:
    """What two models' `probabilities` of the same samples come to."""
    at = np.arange(len(true))
    fall = dense[at, true] - sparse[at, true]
    order = np.argsort(-fall, kind="stable")[:_SHOWN]
    turned = float((dense.argmax(axis=1) != sparse.argmax(axis=1)).mean())
    lost = tuple((int(index), float(fall[index])) for index in order if fall[index] > 0)
    return ConfidenceChange(confidence(dense, true), confidence(sparse, true), len(true), turned, lost)
