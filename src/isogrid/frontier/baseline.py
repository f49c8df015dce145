"""What the dense baseline is worth, without the luck of having been chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isogrid.metrics import Metric, Outcomes

_HALVINGS = 200


def cross_fitted(metric: Metric, cycles: Sequence[Outcomes | float]) -> float:
    """What the best of `cycles` is expected to score on samples that did not choose it.

    The best of several models on some samples owes part of its lead to those samples.  So the samples are halved at
    random, the best on one half is scored on the other, and the mean over many halvings (of a fixed seed) is what
    choosing the best is worth: repeated cross-validation of the choice itself (Stone 1974, J. R. Stat. Soc. B 36(2)).
    Metrics that come as one number for the whole split leave nothing to halve: the best is returned as it stands.

    >>> from isogrid.metrics import ACCURACY
    >>> round(cross_fitted(ACCURACY, [Outcomes([1.0, 0.0] * 50), Outcomes([0.0, 1.0] * 50)]), 2)
    0.46
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    scores = [cycle.scores for cycle in cycles if isinstance(cycle, Outcomes)]
    samples = scores[0].size if scores else 0
    if len(scores) < len(cycles) or samples < 2 or any(one.size != samples for one in scores):
        values = [cycle.value if isinstance(cycle, Outcomes) else cycle for cycle in cycles]
        return max(values, key=lambda value: sign * value)
    table = np.stack(scores)
    rng = np.random.default_rng(0)
    total = 0.0
    for _ in range(_HALVINGS):
        order = rng.permutation(samples)
        one, other = order[: samples // 2], order[samples // 2 :]
        for chooses, judges in ((one, other), (other, one)):
            chosen = int(np.argmax(sign * table[:, chooses].mean(axis=1)))
            total += float(table[chosen, judges].mean())
    return total / (2 * _HALVINGS)
