"""The search, with a metric that is a known function of the sparsity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from isogrid.frontier import OptimizeResult, optimize
from isogrid.metrics import Metric
from isogrid.tasks import Recipe

pytestmark = pytest.mark.usefixtures("no_page")

LADDER = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


def search(quality: Callable[[float], float], out: Path, **changes: Any) -> OptimizeResult:
    """A pretrained model of 2,000 weights whose metric is `quality`, a function of its sparsity."""
    torch.manual_seed(0)
    model = nn.Linear(100, 20, bias=False)

    def evaluate(module: Any) -> float:
        return quality(float((module.weight == 0).float().mean()))

    given: dict[str, Any] = {
        "train": [(torch.randn(8, 100), torch.zeros(8, dtype=torch.int64))], "evaluate": evaluate, "test": evaluate,
        "example": torch.zeros(2, 100), "pretrained": True, "floor": 0.9, "minimize": "nonzeros",
        "recipe": Recipe(rung_epochs=1, lr=1e-4, ladder=LADDER),
    }  # fmt: skip
    return optimize(model, out=out, **{**given, **changes})


def rungs(result: OptimizeResult) -> dict[int, float]:
    return {point.rung: point.sparsity for point in result.report.points if point.precision == "fp32"}


def test_a_floor_that_never_breaks_is_climbed_to_the_top(tmp_path: Path) -> None:
    result = search(lambda _: 0.95, tmp_path)
    assert [round(s, 2) for s in rungs(result).values()] == [0, *LADDER]
    assert result.report.balance.sparsity == pytest.approx(0.95, abs=0.01)
    assert result.verdict == "held"


def test_a_floor_that_always_breaks_leaves_the_dense_model_and_spares_the_rest_of_the_ladder(tmp_path: Path) -> None:
    result = search(lambda s: 0.95 if s < 0.01 else 0.5, tmp_path)
    assert max(rungs(result).values()) < LADDER[-1] - 0.01
    assert result.report.balance.sparsity < 0.01
    assert result.verdict == "held"


@pytest.mark.parametrize("edge", [0.86, 0.745, 0.4])
@pytest.mark.parametrize("method", ["gradual", "one_shot"])
def test_the_gap_below_the_first_break_is_narrowed(tmp_path: Path, edge: float, method: str) -> None:
    result = search(lambda s: 0.95 if s <= edge else 0.5, tmp_path, method=method)
    below = max(rung for rung in LADDER if rung <= edge)
    above = min(rung for rung in LADDER if rung > edge)
    held = [point.sparsity for point in result.report.points if point.holds]
    broken = [point.sparsity for point in result.report.points if not point.holds]
    assert below - 0.01 <= max(held) <= edge
    assert any(below + 0.005 < s < above - 0.005 for s in held + broken)
    # The point chosen is the sparsest that holds.
    assert result.report.balance.sparsity == max(held)


def test_one_rung_that_breaks_by_chance_does_not_end_the_climb(tmp_path: Path) -> None:
    result = search(lambda s: 0.5 if 0.65 < s < 0.75 else 0.95, tmp_path)
    assert result.report.balance.sparsity > 0.9


def test_where_less_is_better_the_direction_turns(tmp_path: Path) -> None:
    error = Metric("error", higher_is_better=False)
    result = search(lambda s: 0.5 if s <= 0.86 else 0.95, tmp_path, metric=error)
    assert 0.79 < result.report.balance.sparsity <= 0.86
    assert result.verdict == "held"


def test_the_dense_model_trains_as_long_as_the_longest_climb_where_asked(tmp_path: Path) -> None:
    steps = {}
    for match in (False, True):
        result = search(lambda _: 0.95, tmp_path / str(match), pretrained=False, match_dense=match)
        dense = [point.step for point in result.report.history if point.phase.startswith("dense")]
        steps[match] = len(dense)
    assert steps[True] == steps[False] + len(LADDER)
