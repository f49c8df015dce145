import dataclasses
import json

import pytest

from isogrid.errors import FormatError, IsogridError
from isogrid.report.data import ReportData, SpeedRow, Verdict


def test_round_trip_through_json(any_report):
    text = any_report.to_json()
    again = ReportData.from_json(text)
    assert again.to_json() == text
    assert again.chosen == ReportData.from_json(text).chosen
    assert again.compression == any_report.compression


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: "[]",
        lambda text: json.dumps({**json.loads(text), "version": 99}),
        lambda text: json.dumps({**json.loads(text), "report": {}}),
        lambda text: text.replace('"seed": ', '"seed": "x', 1).replace('"x', '"x"+', 1),
        lambda text: text.replace('"sparsity": 0.', '"sparsity": 7.', 1),
    ],
)
def test_damage_is_one_sentence(digits, damage):
    with pytest.raises(FormatError) as caught:
        ReportData.from_json(damage(digits.to_json()))
    assert "\n" not in str(caught.value)


def test_numbers_that_are_not_finite_are_refused(digits):
    with pytest.raises(IsogridError):
        dataclasses.replace(digits, seconds=float("nan")).to_json()


def test_values_that_contradict_are_refused(digits):
    with pytest.raises(IsogridError, match="interval"):
        Verdict("held", 0.0, low=1.0, high=0.0, allowed=0.1, samples=3)
    with pytest.raises(IsogridError, match="nonzeros"):
        dataclasses.replace(digits.dense, nonzeros=digits.dense.parameters + 1)
    twice = [dataclasses.replace(point, chosen=True) for point in digits.points]
    with pytest.raises(IsogridError, match="chosen"):
        dataclasses.replace(digits, points=twice)


def test_a_report_from_before_speed_was_measured_can_be_read(digits):
    document = json.loads(digits.to_json())
    del document["report"]["speed"]
    for point in document["report"]["points"]:
        del point["latency"]
    assert ReportData.from_json(json.dumps(document)).speed is None


def test_times_that_contradict_are_refused():
    for wrong in ({"low": 2.0}, {"high": 0.5}, {"times_low": 5.0}, {"milliseconds": 0.0, "low": 0.0}):
        values = {"milliseconds": 1.0, "low": 0.9, "high": 1.1, "times": 3.0, "times_low": 2.9, "times_high": 3.1}
        with pytest.raises(IsogridError, match="times of the packed model"):
            SpeedRow("packed", 1, **{**values, **wrong})
