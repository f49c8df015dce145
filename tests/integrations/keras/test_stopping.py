"""Stopping as soon as the accuracy is reached, and not before the sparsity is."""

from __future__ import annotations

import pytest

import isogrid.keras as ik
from integrations.keras import small
from isogrid.errors import UsageError


def test_it_stops_at_the_first_epoch_that_reaches_the_threshold() -> None:
    stop = ik.StopAtAccuracy(1e6, "loss", higher_is_better=False)
    assert len(small.fit(small.model(), stop).epoch) == 1
    assert stop.stopped_epoch == 0
    never = ik.StopAtAccuracy(1e6, "loss")
    assert len(small.fit(small.model(), never).epoch) == 4
    assert never.stopped_epoch is None


def test_it_waits_for_the_sparsity() -> None:
    stop = ik.StopAtAccuracy(1e6, "loss", higher_is_better=False)
    sparsify = ik.Sparsify(ik.Gradual(0.8, delta_t=3))
    small.fit(small.model(), sparsify, stop)
    assert stop.stopped_epoch == 2  # the ramp ends with three quarters of four epochs
    assert sparsify.report is not None
    assert sparsify.report.sparsity >= 0.8


def test_what_is_not_logged_is_refused() -> None:
    with pytest.raises(UsageError, match=r"monitor='val_accuracy', which is not logged; accepted are loss"):
        small.fit(small.model(), ik.StopAtAccuracy(0.9))
    with pytest.raises(UsageError, match=r"got threshold=None; accepted is a finite number"):
        ik.StopAtAccuracy(None)  # type: ignore[arg-type]
