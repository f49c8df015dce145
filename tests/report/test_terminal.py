import dataclasses
import io

import pytest
from rich.console import Console

from isogrid.report.terminal import render


def shown(data, **options) -> str:
    stream = io.StringIO()
    render(data, Console(file=stream, width=80, **options))
    return stream.getvalue()


def test_80_columns_of_ascii_where_there_is_no_terminal(any_report):
    text = shown(any_report)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80
    assert any_report.verdict.state in text or "not resolvable" in text


def test_a_terminal_gets_bars_and_the_same_numbers(digits):
    text = shown(digits, force_terminal=True, color_system=None)
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in text
    assert f"{digits.balance.nonzeros:,}" in text


@pytest.mark.parametrize("state", ["held", "broken", "unresolved", "untested"])
def test_every_verdict_is_said(digits, state):
    text = shown(dataclasses.replace(digits, verdict=dataclasses.replace(digits.verdict, state=state)))
    assert {"unresolved": "not resolvable"}.get(state, state) in " ".join(text.split())


def test_without_a_test_split_the_validation_metric_is_shown(digits):
    bare = dataclasses.replace(
        digits,
        verdict=dataclasses.replace(digits.verdict, state="untested"),
        dense=dataclasses.replace(digits.dense, test_metric=None),
        balance=dataclasses.replace(digits.balance, test_metric=None),
    )
    text = shown(bare)
    assert "validation accuracy" in text
    assert "test accuracy" not in text


def test_speed_is_shown_where_it_was_measured(digits):
    text = shown(digits)
    assert "in ONNX Runtime, 1 thread" in text
    assert "4.80x (4.66 to 4.94)" in text
    assert "in ONNX Runtime" not in shown(dataclasses.replace(digits, speed=None))


def test_the_cost_of_training_is_compared_where_it_was_counted(digits):
    row = next(line for line in shown(digits).splitlines() if "TFLOP" in line)
    assert [part.strip() for part in row.split("|")[2:5]] == ["2 TFLOP", "3 TFLOP", "1.5x more"]
    assert "TFLOP" not in shown(dataclasses.replace(digits, training=None))
