"""Runs side by side."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from isogrid.errors import FormatError, UsageError
from isogrid.report import comparison
from isogrid.report.comparison import ComparedRun, read_runs
from isogrid.report.html import comparison_page, write_comparison
from isogrid.report.terminal import render_comparison


def write(folder: Path, report: Any, config: Any = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture
def runs(digits: Any) -> list[ComparedRun]:
    other = dataclasses.replace(digits, seconds=3700.0, training=None, speed=None)
    return [
        ComparedRun("first", digits, {"method": "Gradual()", "seed": 0, "recipe.lr": 0.1}),
        ComparedRun("second", other, {"method": "RigL()", "seed": 0, "recipe.lr": 0.1}),
    ]


def test_runs_are_read_and_named_by_as_little_of_their_path_as_tells_them_apart(tmp_path: Path, digits: Any) -> None:
    one = write(tmp_path / "a" / "run", digits, {"isogrid": "1", "recipe": {"lr": 0.1}})
    two = write(tmp_path / "b" / "run", digits)
    three = write(tmp_path / "b" / "other", digits)
    assert [run.name for run in read_runs([one, three])] == ["run", "other"]
    read = read_runs([one, two])
    assert [run.name for run in read] == ["a/run", "b/run"]
    assert read[0].config == {"isogrid": "1", "recipe.lr": 0.1}
    assert read[1].config == {}
    assert read[0].report.to_json() == digits.to_json()


def test_what_cannot_be_compared_is_refused(tmp_path: Path, digits: Any, regression: Any) -> None:
    one = write(tmp_path / "one", digits)
    with pytest.raises(UsageError, match="1 run was given; accepted are two"):
        read_runs([one])
    with pytest.raises(UsageError, match="The run one was given twice"):
        read_runs([one, tmp_path / "x" / ".." / "one"])
    with pytest.raises(UsageError, match=r"report\.json is missing"):
        read_runs([one, tmp_path])
    with pytest.raises(UsageError, match="accepted are runs of one metric"):
        read_runs([one, write(tmp_path / "two", regression)])
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "report.json").write_text("{")
    with pytest.raises(FormatError, match=r"damaged.report\.json cannot be read\. The report is not valid JSON"):
        read_runs([one, damaged])


def test_a_damaged_configuration_leaves_the_report_readable(tmp_path: Path, digits: Any) -> None:
    one, two = write(tmp_path / "one", digits), write(tmp_path / "two", digits)
    (one / "config.json").write_text("[1")
    (two / "config.json").write_text("[1]")
    assert [run.config for run in read_runs([one, two])] == [{}, {}]


def test_summaries_and_costs_repeat_the_reports_numbers(runs: list[ComparedRun]) -> None:
    heading, rows = comparison.summaries(runs)
    assert all(len(row) == len(heading) for row in rows)
    balance = runs[0].report.balance
    assert rows[0][:4] == ["first", "held", f"{100 * balance.sparsity:.1f} %", balance.precision]
    heading, rows = comparison.costs(runs)
    assert dict(zip(heading, rows[0], strict=True)) == {
        "run": "first", "training": "3 TFLOP", "against dense": "1.5x more", "whole run": "9 TFLOP",
        "time": rows[0][4], "packed, one sample": "0.01 ms", "times faster": "2.00x",
    }  # fmt: skip
    assert rows[1] == ["second", "", "", "", "1 h 1 min", "", ""]


def test_the_ladder_takes_the_best_precision_of_a_rung_and_the_rungs_that_most_runs_share(digits: Any) -> None:
    rungs = sorted({point.rung for point in digits.points})
    few = [point for point in digits.points if point.rung in rungs[-3:]]
    runs = [
        ComparedRun("all", digits, {}),
        ComparedRun("few", dataclasses.replace(digits, points=few), {}),
    ]
    heading, rows = comparison.ladders(runs, 4)
    assert heading[-3:] == ["98.7 %", "99.20 %", "99.50 %"]
    assert rows[1][1] == ""
    best = max(point.metric for point in digits.points if point.rung == rungs[-1])
    assert rows[0][-1] == rows[1][-1] == f"{100 * best:.2f} %"


def test_lower_is_better_where_the_metric_says_so(regression: Any) -> None:
    _, rows = comparison.ladders([ComparedRun("a", regression, {}), ComparedRun("b", regression, {})], 1)
    last = max(point.rung for point in regression.points)
    best = min(point.metric for point in regression.points if point.rung == last)
    assert float(rows[0][1].split()[0]) == pytest.approx(best, rel=1e-3)


def test_only_what_differs_is_listed(runs: list[ComparedRun]) -> None:
    assert comparison.differences(runs) == [("method", ["Gradual()", "RigL()"])]
    assert comparison.differences([runs[0], dataclasses.replace(runs[0], config={})])[0] == (
        "method", ["Gradual()", "null"],
    )  # fmt: skip


def test_the_terminal_shows_all_of_it_in_plain_letters(runs: list[ComparedRun]) -> None:
    out = io.StringIO()
    render_comparison(runs, Console(file=out, width=100))
    text = out.getvalue()
    assert text.isascii()
    for part in ("balance points", "validation accuracy", "what it took", "in what they differ", "second: RigL()"):
        assert part in text


def test_the_page_is_whole_and_safe(runs: list[ComparedRun], tmp_path: Path) -> None:
    hostile = dataclasses.replace(runs[1], name="<script>x</script>", config={**runs[1].config, "method": "<b>"})
    text = comparison_page([runs[0], hostile])
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "var(--accent)" in text
    assert "<code>&lt;b&gt;</code>" in text
    assert write_comparison(runs, tmp_path / "c.html") == (tmp_path / "c.html").stat().st_size


def test_more_runs_than_can_be_told_apart_are_listed_and_not_drawn(digits: Any) -> None:
    many = [ComparedRun(f"run{index}", digits, {}) for index in range(10)]
    text = comparison_page(many)
    assert "the first 8 of 10 runs" in text
    assert "run9" in text
    assert comparison_page(many) == text


def test_words_stay_whole_and_names_on_one_line_in_eighty_columns(digits: Any) -> None:
    verdict = dataclasses.replace(digits.verdict, state="unresolved")
    runs = [ComparedRun(name, dataclasses.replace(digits, verdict=verdict), {"x": name}) for name in ("one", "t\nwo")]
    output = io.StringIO()
    render_comparison(runs, Console(file=output, width=80))
    written = output.getvalue()
    assert written.count("unresolved") == 2
    assert written.isascii()
    tables = [line for line in written.splitlines() if line.startswith(("|", "+"))]
    assert all(len(line) <= 80 and line[-1] in "|+" for line in tables)  # not cut off on the right
    assert not any(line.strip("|").strip().startswith("wo") for line in written.splitlines())
