"""Fair timing.  No clock decides here: only who was called, how often, and what is made of the numbers."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from isogrid.runtime import timing
from isogrid.runtime.timing import Candidate, Ratio, Sample, Sweep, median_interval, quartiles, race, ratio, settle


class Calls:
    """Candidates that write down who was called with how many threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> None:
        self.log: list[str] = []
        self.threads: list[int] = []
        self.now = 0.0
        self._seconds = seconds
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing, "settle", lambda: self.log.append("settle"))
        monkeypatch.setattr(timing, "Sweep", lambda: lambda: self.log.append("sweep"))

    def candidates(self) -> dict[str, Candidate]:
        return {name: Candidate(lambda name=name: self._call(name), len(name)) for name in self._seconds}

    def _call(self, name: str) -> None:
        self.log.append(name)
        self.now += self._seconds[name]


def test_everyone_has_a_turn_in_every_round_and_the_order_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, dict.fromkeys("abcd", 1.0))
    samples = race(calls.candidates(), seconds=0.0, least_rounds=6, cold=True)
    turns = [name for name in calls.log if name in "abcd"]
    rounds = ["".join(turns[i : i + 4]) for i in range(0, 24, 4)]
    assert len(turns) == 24
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 1
    assert {len(sample.rounds) for sample in samples.values()} == {6}


def test_the_order_is_the_same_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = []
    for _ in range(2):
        calls = Calls(monkeypatch, dict.fromkeys("abcd", 1.0))
        race(calls.candidates(), seconds=0.0)
        logs.append(calls.log)
    assert logs[0] == logs[1]


def test_a_turn_is_the_median_of_calls_after_one_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, {"a": timing.TURN_SECONDS / 8})
    samples = race(calls.candidates(), seconds=0.0, least_rounds=2)
    # The first turn also finds out how many calls a turn has.
    assert calls.log == ["settle", *["a"] * 10, "settle", *["a"] * 9]
    assert samples["a"].rounds == pytest.approx([timing.TURN_SECONDS / 8] * 2)
    assert samples["a"].calls == pytest.approx([timing.TURN_SECONDS / 8] * 16)


def test_a_long_call_is_not_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, {"a": 2 * timing.LONG_CALL})
    race(calls.candidates(), seconds=0.0, least_rounds=3)
    assert calls.log == ["settle", "a", "a", "a", "settle", "a", "settle", "a"]


def test_cold_calls_follow_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, {"a": 1e-6})
    race(calls.candidates(), seconds=0.0, least_rounds=2, cold=True)
    assert calls.log == ["settle", "sweep", "a"] * 2


def test_rounds_go_on_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounds(seconds: float) -> int:
        calls = Calls(monkeypatch, {"a": 1.0})
        return len(race(calls.candidates(), seconds=seconds, least_rounds=3, most_rounds=9, cold=True)["a"].rounds)

    assert rounds(0.0) == 3
    assert rounds(5.5) == 6
    assert rounds(1e9) == 9


def test_threads_are_told_before_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, {"a": 1.0, "bb": 1.0})
    race(calls.candidates(), seconds=0.0, least_rounds=2, cold=True, set_threads=lambda n: calls.log.append(f"set {n}"))
    for i, entry in enumerate(calls.log):
        if entry in ("a", "bb"):
            assert calls.log[i - 3 : i] == [f"set {len(entry)}", "settle", "sweep"]


def test_an_error_in_a_call_is_not_swallowed() -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        race({"a": Candidate(fail)})


def test_the_ratio_is_taken_within_rounds() -> None:
    # The machine was ten times as slow in the second round: the ratio does not notice.
    found = ratio(Sample((2.0, 20.0, 2.0)), Sample((1.0, 10.0, 1.0)))
    assert found == Ratio(2.0, 2.0, 2.0)
    assert str(found) == "2.00x (2.00 to 2.00)"


def test_samples_of_different_races_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio(Sample((1.0, 2.0)), Sample((1.0,)))


@pytest.mark.parametrize("n", range(1, 60))
def test_the_interval_is_the_narrowest_that_is_still_sure(n: int) -> None:
    low, high = median_interval(range(n))
    assert low + high == n - 1

    def surety(left_out: int) -> float:
        return 1 - 2 * sum(comb(n, i) for i in range(left_out + 1)) / 2**n

    left_out = int(low)
    assert left_out == 0 or surety(left_out) >= 0.95
    narrower = left_out + 1
    assert 2 * narrower > n - 1 or surety(narrower) < 0.95


def test_the_interval_does_not_depend_on_the_order() -> None:
    numbers = list(np.random.default_rng(0).normal(size=31))
    assert median_interval(numbers) == median_interval(sorted(numbers, reverse=True))


def test_quartiles_of_one_number_are_that_number() -> None:
    assert quartiles([3.0]) == (3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
    assert Sample((5.0, 1.0, 3.0)).median == 3.0


def test_settling_ends() -> None:
    settle(0.05)


def test_a_sweep_touches_all_of_its_buffer() -> None:
    sweep = Sweep(1 << 16)
    sweep()
    sweep()
    assert (sweep._buffer == 2).all()
    assert sweep._buffer.nbytes == 1 << 16


def test_percentiles_are_those_of_all_calls() -> None:
    assert Sample((9.0,), tuple(float(n) for n in range(101))).percentile(90) == 90.0
    assert Sample((9.0,)).percentile(90) == 9.0
