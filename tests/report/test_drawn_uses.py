"""The drawing of finished runs that the pages of the uses show (benchmarks/uses/drawing.py)."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.uses.drawing import draw

from isogrid.report.data import ReportData
from isogrid.report.figures.tradeoff import density_place


def halves(monkeypatch: pytest.MonkeyPatch, path: Path, *reports: ReportData) -> tuple[Axes, Axes]:
    """The trade-off and the outcome, as they were when they were written."""
    figures: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *args: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", saved)
    draw([f"run-{number}" for number in range(len(reports))], reports, path)
    left, right = figures[0].axes
    return left, right


def test_each_run_shows_its_points_its_floor_and_its_balance_point(
    digits: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(digits, seed=1)
    path = tmp_path / "new" / "runs.svg"
    left, right = halves(monkeypatch, path, digits, other)
    assert path.read_text(encoding="utf-8").startswith("<?xml")
    lines = {str(line.get_label()): line for line in left.lines}
    assert len(lines["run-0"].get_xdata()) == len(lines["run-1"].get_xdata()) == len(digits.points)
    chosen = digits.chosen
    assert chosen is not None
    drawn = [(line.get_xdata()[0], line.get_ydata()[0]) for line in left.lines if len(line.get_xdata()) == 1]
    assert drawn == [pytest.approx((density_place(1 - chosen.sparsity), 100 * chosen.metric))] * 2
    floors = [line for line in left.lines if line.get_linestyle() == "--" and len(line.get_ydata()) == 2]
    assert [line.get_ydata()[0] for line in floors] == pytest.approx([100 * digits.floor.limit] * 2)
    assert digits.dense.test_metric is not None
    assert digits.balance.test_metric is not None
    assert list(right.lines[0].get_ydata()) == pytest.approx(
        [100 * digits.dense.test_metric, 100 * digits.balance.test_metric]
    )


def test_up_is_better_and_what_is_allowed_is_a_quarter_of_the_outcome_at_most(
    digits: ReportData, regression: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (report, scale) in enumerate(((digits, 100), (regression, 1))):
        axes = halves(monkeypatch, tmp_path / f"{number}.svg", report)
        for one in axes:
            low, high = one.get_ylim()
            assert bool(low < high) is report.metric.higher_is_better
        low, high = axes[1].get_ylim()
        allowed = scale * abs(report.floor.baseline - report.floor.limit)
        assert abs(high - low) >= 4 * allowed * (1 - 1e-9)
