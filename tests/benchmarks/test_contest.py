"""Contests: outputs before times, failures as rows, the best setting of each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import contest, output
from benchmarks.common.contest import CSR, NOT_SLOWER, Contestant, Entry, Goal, Judged, Result, UnavailableError, Work
from benchmarks.common.equality import DifferentError, check, difference
from benchmarks.common.masks import random_mask
from benchmarks.common.options import Pace, chosen, fractions, known, numbers
from benchmarks.limits import Limits

from isogrid.runtime.timing import Ratio, Sample

WANTED = torch.arange(6.0).reshape(2, 3)
DENSE = Contestant("dense", baseline=True)
OURS = Contestant("ours", 0.9, ours=True)
LIMITS = Limits(
    threads=1,
    multiply_adds=100.0,
    read={"L1": 40.0, "L2": 20.0, "L3": 10.0, "DRAM": 1.0},
    gathers=10.0,
    ways={"one": 10.0},
    capacity={"L1": 8, "L2": 16, "L3": 64},
)


def entry(contestant: Contestant, seconds: float = 1.0, threads: int = 1, setting: str = "", **rest: Any) -> Entry:
    """A contestant whose call "takes" that long: the fake race below reads it."""

    def prepare() -> Callable[[], Any]:
        def call() -> Any:
            return rest.get("output", WANTED)

        call.seconds = seconds  # type: ignore[attr-defined]
        return call

    return Entry(contestant, setting, threads, rest.get("prepare", prepare), WANTED, work=rest.get("work", Work()))


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(candidates: dict[Any, Any], **_: Any) -> dict[Any, Sample]:
        return {key: Sample((one.call.seconds,) * 5) for key, one in candidates.items()}

    monkeypatch.setattr(contest, "_race", fake)


@pytest.fixture(autouse=True)
def _same_threads_after() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def hold(*entries: Entry, threads: tuple[int, ...] = (1,), **options: Any) -> Result:
    return contest.hold("case", entries, threads, seconds=0.0, say=lambda _: None, **options)


def test_who_computes_something_else_is_not_timed() -> None:
    row, _ = hold(entry(DENSE, output=WANTED + 0.1), entry(OURS)).rows
    assert row.sample is None
    assert row.failed is not None
    assert row.failed.startswith("failed: the output differs by 2.0e-02")


def test_whoever_fails_becomes_a_row_and_stops_nobody() -> None:
    def broken() -> Any:
        raise RuntimeError("no such kernel\nand much more")

    def absent() -> Any:
        raise UnavailableError("openvino is not installed")

    rows = hold(
        entry(DENSE), entry(Contestant("broken"), prepare=broken), entry(Contestant("absent"), prepare=absent),
        entry(OURS, 0.5),
    ).rows  # fmt: skip
    assert [row.failed for row in rows] == [
        None, "failed: no such kernel", "not here: openvino is not installed", None
    ]  # fmt: skip
    assert rows[3].over_baseline == Ratio(2.0, 2.0, 2.0)


def test_the_best_setting_is_kept_among_those_with_so_many_threads() -> None:
    entries = [
        entry(DENSE, 3.0, 1, "a"), entry(DENSE, 2.0, 1, "b"), entry(DENSE, 1.0, 2, "a"), entry(OURS, 0.5, 1),
        entry(OURS, 0.7, 2),
    ]  # fmt: skip
    rows = hold(*entries, threads=(1, 2)).rows
    assert [(row.threads, row.setting, row.setting_threads) for row in rows] == [
        (1, "b", 1), (1, "", 1), (2, "a", 2), (2, "", 1)
    ]  # fmt: skip


def test_a_setting_that_fails_leaves_the_others() -> None:
    row, *_ = hold(entry(DENSE, output=WANTED + 1, setting="wrong"), entry(DENSE, setting="right")).rows
    assert row.setting == "right"
    assert list(row.left_out) == ["wrong, 1 threads"]


def test_ratios_are_over_the_baseline_the_best_rival_and_compressed_rows() -> None:
    entries = [
        entry(DENSE, 8.0), entry(Contestant("outside"), 4.0), entry(Contestant("small", values="int8"), 1.0),
        entry(Contestant(CSR, 0.5), 3.0), entry(Contestant(CSR, 0.9), 6.0), entry(OURS, 2.0),
        entry(Contestant("ours int8", 0.9, True, values="int8"), 2.0),
    ]  # fmt: skip
    *_, ours, int8 = hold(*entries).rows
    assert ours.over_baseline is not None
    assert ours.over_best is not None
    assert ours.over_csr is not None
    assert int8.over_best is not None
    assert ours.over_baseline.median == 4.0
    # Float32 is not measured against int8, nor against compressed rows with other zeros.
    assert ours.over_best.median == 2.0
    assert int8.over_best.median == 0.5
    assert ours.over_csr.median == 3.0


def test_goals_are_judged_where_both_took_part() -> None:
    goals = [Goal("ours", 0.9, 3.0), Goal("ours", 0.9, 1.0, ("other",), 0.9), Goal("ours", 0.5, 3.0)]
    found = hold(entry(DENSE, 6.0), entry(OURS, 2.0), goals=goals).goals
    assert [(one.goal.least, one.ratio.median, one.over, one.reached) for one in found] == [(3.0, 3.0, "dense", True)]


def test_not_slower_is_missed_only_if_the_interval_says_so() -> None:
    goal = Goal("ours", 0.0, NOT_SLOWER)
    assert Judged("case", 1, goal, Ratio(0.98, 0.95, 1.01), "itself").reached
    assert not Judged("case", 1, goal, Ratio(0.98, 0.95, 0.99), "itself").reached
    assert not Judged("case", 1, Goal("ours", 0.9, 2.0), Ratio(1.9, 1.0, 2.1), "dense").reached


def test_the_limit_is_what_takes_longest() -> None:
    assert LIMITS.seconds(multiply_adds=50) == (0.5, "multiply-adds")
    assert LIMITS.seconds(multiply_adds=50, gathers=10) == (1.0, "gathered loads")
    assert LIMITS.seconds(weight_bytes=8) == (0.2, "reading from L1")
    assert LIMITS.seconds(weight_bytes=65) == (65.0, "reading from DRAM")
    row, _ = hold(entry(DENSE, 4.0, work=Work(100.0)), entry(OURS), limits={1: LIMITS}).rows
    assert row.of_limit == 0.25


def test_outputs_may_lie_another_way() -> None:
    assert difference(WANTED.t(), WANTED) == 0
    assert difference([WANTED.numpy()[None]], WANTED) == 0
    assert difference((WANTED, WANTED[0]), {"y": WANTED, "h": WANTED[0]}) == 0
    assert difference(WANTED * 1.01, WANTED) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("got", [WANTED[:, :2], (WANTED, WANTED), WANTED * float("nan"), WANTED + 1])
def test_what_is_not_equal_is_refused(got: Any) -> None:
    with pytest.raises(DifferentError):
        check(got, WANTED)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99])
def test_a_mask_has_exactly_that_share_of_zeros(sparsity: float) -> None:
    mask = random_mask((20, 50), sparsity, seed=3)
    assert int((mask == 0).sum()) == round(1000 * sparsity)
    assert torch.equal(mask, random_mask((20, 50), sparsity, seed=3))
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_options_are_read() -> None:
    assert numbers("2,1,2") == (1, 2)
    assert fractions("0.9,0") == (0.0, 0.9)
    assert chosen(["linear 1", "convolution"], ["CONV"]) == ["convolution"]
    assert known(None, ("a", "b")) == ("a", "b")
    for wrong in (lambda: chosen(["a"], ["b"]), lambda: known(["c"], ("a", "b"))):
        with pytest.raises(SystemExit):
            wrong()


def test_the_pace_is_shared_among_what_is_left() -> None:
    shares = Pace(1000.0, 4).shares()
    assert [round(share) for share in shares] == [250, 333, 500, 1000]
    assert list(Pace(-1.0, 2).shares()) == [0.0, 0.0]


def test_results_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(output, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(output, "SAVED", tmp_path / "saved")
    goals = [Goal("ours", 0.9, 3.0)]
    result = hold(
        entry(DENSE, 6.0), entry(OURS, 2.0, work=Work(10.0)), entry(Contestant("ours", 0.5, ours=True), 4.0),
        entry(Contestant("[broken]"), output=WANTED + 1), goals=goals, limits={1: LIMITS},
    )  # fmt: skip
    out = output.console()
    with out.capture() as captured:
        output.begin("Things", (1,), {1: LIMITS}, out)
        output.show(result, 1, out)
        output.show_goals(result.goals, out)
        output.write("things", [result], {1: LIMITS}, {"threads": (1,), "save": False}, save=False, out=out)
    text = captured.get()
    assert "3.00x" in text
    assert "failed: the output differs" in text
    assert "[broken]" in text
    assert "reached" in text
    assert not (tmp_path / "saved").exists()
    document = json.loads((tmp_path / "results" / "things.json").read_text())
    assert [row["contestant"] for row in document["rows"]] == ["dense", "ours", "ours", "[broken]"]
    assert document["rows"][1]["over_baseline"] == {"median": 3.0, "low": 3.0, "high": 3.0}
    assert document["goals"][0]["reached"] is True
    assert (tmp_path / "results" / "things.png").stat().st_size > 1000
    output.write("things", [result], {}, {}, save=True, out=out)
    assert (tmp_path / "saved" / "things.json").exists()
