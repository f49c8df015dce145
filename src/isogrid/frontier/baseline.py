"""What the dense baseline is worth, without the luck of having been chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isogrid.metrics import Metric, Outcomes

_FOLDS = 10


def cross_fitted(metric: Metric, cycles: Sequence[Outcomes | float]) -> float:
    """What the best of `cycles` is expected to score on samples that did not choose it.

    The best of several models on some samples owes part of its lead to those samples.  So each tenth of them is scored
    with the model that is best on the other nine tenths, and the mean of all scores is what choosing the best is worth
    (cross-validation of the choice itself; Stone 1974, J. R. Stat. Soc. B 36(2)).  Metrics that come as one number for
    the whole split leave nothing to divide: the best is returned as it stands.

    >>> from isogrid.metrics import ACCURACY
    >>> lucky_in_turn = [Outcomes([1.0] * 5 + [0.0] * 5), Outcomes([0.0] * 5 + [1.0] * 5)]
    >>> cross_fitted(ACCURACY, lucky_in_turn)
    0.0
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    scores = [cycle.scores for cycle in cycles if isinstance(cycle, Outcomes)]
    samples = scores[0].size if scores else 0
    folds = min(_FOLDS, samples)
    if len(scores) < len(cycles) or folds < 2 or any(one.size != samples for one in scores):
        values = [cycle.value if isinstance(cycle, Outcomes) else cycle for cycle in cycles]
        return max(values, key=lambda value: sign * value)
    table = np.stack(scores)
    fold = np.arange(samples) % folds
    total = 0.0
    for held_out in range(folds):
        chosen = int(np.argmax(sign * table[:, fold != held_out].sum(axis=1)))
        total += float(table[chosen, fold == held_out].sum())
    return total / samples
