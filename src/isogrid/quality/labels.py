"""Labels that are probably wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import MissingDependencyError
from isogrid.quality.finding import Finding, Grade

_SHOWN = 20
_FOLDS = 5
_NEIGHBOURS = 15
_GIVEN, _OTHER = 0.05, 0.8
"""Shares of the neighbours' votes: at most for the label, at least for another, where a label is surely wrong."""
_GOOD, _PROBLEM = 0.01, 0.025
"""Shares of surely wrong labels.  Clean sets had 0 to 0.5 % of them, sets with 5 % wrong labels 3 %."""


def check_labels(points: NDArray[np.float32], labels: NDArray[np.int64], where: NDArray[np.int64]) -> Finding:
    """Training samples whose neighbours have another label.

    Two numbers that a share of wrong labels lies between.  *Doubtful* are those of confident learning (Northcutt, Jiang
    and Chuang 2021, arXiv:1911.00068) as cleanlab has it, which also holds what is hard to tell; *surely wrong* are
    those against which the neighbours vote almost as one.  The votes are of 15 neighbours in the other folds, by
    distance: of the plain models that were tried, wrong labels disturb this one least.

    Args:
        points: ``[n, components]``.
        labels: ``[n]`` classes.
        where: ``[n]``, the positions of these samples in the split.

    Raises:
        MissingDependencyError: cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "Labels are checked with cleanlab, which is not installed; install it with: pip install 'isogrid[quality]'."
        ) from None
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    kept = np.flatnonzero(np.bincount(labels)[labels] >= _FOLDS)  # of rarer classes a fold would have none
    classes, dense = np.unique(labels[kept], return_inverse=True)
    if len(classes) < 2 or len(kept) < 2 * _NEIGHBOURS:
        return Finding("labels", "note", "There are too few samples of two classes or more to look for wrong labels.")
    votes = cross_val_predict(
        KNeighborsClassifier(_NEIGHBOURS, weights="distance"), points[kept], dense, method="predict_proba",
        cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=0),
    )  # fmt: skip
    doubtful = find_label_issues(dense, votes, n_jobs=1)
    given = votes[np.arange(len(dense)), dense]
    sure = (given <= _GIVEN) & (votes.max(axis=1) >= _OTHER)
    order = np.argsort(given - votes.max(axis=1), kind="stable")
    share, most = float(sure.mean()), float(doubtful.mean())
    right = float((votes.argmax(axis=1) == dense).mean())
    grade: Grade = "good" if share < _GOOD else "note" if share < _PROBLEM else "problem"
    text = (
        f"{100 * share:.1f} % of {len(kept)} labels are surely wrong and {100 * most:.1f} % doubtful, to neighbours "
        f"that are right on {100 * right:.0f} %."
    )
    numbers = {"samples": float(len(kept)), "surely wrong": share, "doubtful": most, "neighbours right": right}
    examples = {"train": where[kept][order[sure[order]]][:_SHOWN].tolist()} if sure.any() else {}
    return Finding("labels", grade, text, numbers, examples)
