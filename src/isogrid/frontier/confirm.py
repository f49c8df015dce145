"""The verdict: what a split that took no part in any choice says of the floor."""

from __future__ import annotations

from isogrid.floor import Floor
from isogrid.metrics import Drop, Metric, Outcomes, paired_drop, value_of
from isogrid.report.data import State, Verdict


def confirm(metric: Metric, floor: Floor, dense: Outcomes | float | None, sparse: Outcomes | float | None) -> Verdict:
    """Whether the floor is held on the test split.

    ``held`` when the whole 95 % interval of the drop is allowed, ``broken`` when none of it is, ``unresolved`` when the
    split is too small to tell.  Without the scores of at least two samples there is no interval, and the drop itself
    decides; without a test split the verdict is ``untested``.
    """
    if dense is None or sparse is None:
        return Verdict(state="untested", drop=0.0, low=0.0, high=0.0, allowed=0.0, samples=0)
    baseline = value_of(dense)
    allowed = metric.worse_by(baseline, floor.limit_from(metric, baseline))
    if isinstance(dense, Outcomes) and isinstance(sparse, Outcomes) and dense.samples > 1:
        drop = paired_drop(metric, dense, sparse)
    else:
        worse = metric.worse_by(baseline, value_of(sparse))
        drop = Drop(worse, worse, worse, 0)
    state: State = "unresolved"
    if drop.high <= allowed:
        state = "held"
    elif drop.low > allowed:
        state = "broken"
    return Verdict(
        state=state, drop=drop.value, low=drop.low, high=drop.high, allowed=allowed, samples=drop.samples
    )  # fmt: skip
