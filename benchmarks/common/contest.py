"""A contest: everyone who can do the same work, each in its best setting, timed in turns.

A contestant is what a table has a row for; it has settings (threads, layout, optimisation level ...).  First
each setting is prepared and its output compared, then short turns find each contestant's best setting, then the best
settings race.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.common.equality import TOLERANCE, check
from benchmarks.common.machine import Neighbours
from benchmarks.limits import Limits
from isogrid.runtime.timing import Candidate, Ratio, Sample, race, ratio


class UnavailableError(Exception):
    """A rival cannot take part; the text says why."""


@dataclass(frozen=True)
class Work:
    """What a contestant cannot do without: for the least time that the machine allows."""

    multiply_adds: float = 0
    weight_bytes: float = 0
    gathers: float = 0


@dataclass(frozen=True)
class Contestant:
    """A row of the table.

    Attributes:
        name: as it is shown.
        sparsity: of the weights it works with; None for those to whom zeros are numbers like others.
        ours: whether it is measured, or measured against.
        baseline: whether it is one of those whose best is what the goals speak of.
        values: how its weights are stored; float32 is not measured against less.
    """

    name: str
    sparsity: float | None = None
    ours: bool = False
    baseline: bool = False
    values: str = "fp32"


@dataclass(frozen=True)
class Entry:
    """A contestant in one setting.

    Attributes:
        prepare: gives the call that is timed; may raise whatever it likes.
        wanted: what the call must return.
    """

    contestant: Contestant
    setting: str
    threads: int
    prepare: Callable[[], Callable[[], Any]]
    wanted: Any
    tolerance: float = TOLERANCE
    work: Work = Work()


@dataclass(frozen=True)
class Goal:
    """``contestant`` is to be at least ``least`` times faster than the best of the contestants named ``over``.

    With nothing named it is the best of the baseline.
    """

    contestant: str
    sparsity: float | None
    least: float
    over: tuple[str, ...] = ()
    over_sparsity: float | None = None


@dataclass
class Row:
    """What was found out about a contestant."""

    case: str
    threads: int
    contestant: Contestant
    setting: str = ""
    setting_threads: int = 0
    sample: Sample | None = None
    difference: float | None = None
    failed: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    over_baseline: Ratio | None = None
    over_best: Ratio | None = None
    over_csr: Ratio | None = None
    limit_seconds: float | None = None
    limit_name: str | None = None

    @property
    def of_limit(self) -> float | None:
        """The least time that the machine allows, as a share of the time taken."""
        if self.sample is None or self.limit_seconds is None:
            return None
        return self.limit_seconds / self.sample.median


@dataclass
class Judged:
    """A goal and what came of it."""

    case: str
    threads: int
    goal: Goal
    ratio: Ratio
    over: str

    @property
    def reached(self) -> bool:
        """Whether the median is as large; for "not slower", whether the interval is not all below."""
        return (self.ratio.high if self.goal.least == NOT_SLOWER else self.ratio.median) >= self.goal.least


@dataclass
class Result:
    """Of a contest, for each number of threads."""

    case: str
    rows: list[Row]
    goals: list[Judged]
    neighbours: float | None


@dataclass
class _Ready:
    entry: Entry
    candidate: Candidate
    difference: float


CSR = "torch CSR (MKL)"
NOT_SLOWER = 1.0
"""A goal of this size is reached unless the interval lies below it."""


def hold(
    case: str,
    entries: Sequence[Entry],
    threads: Sequence[int],
    *,
    seconds: float,
    limits: dict[int, Limits] | None = None,
    goals: Iterable[Goal] = (),
    quick: bool = False,
    cold: bool = False,
    say: Callable[[str], None] = print,
) -> Result:
    """Hold a contest.  Whoever fails becomes a row that says why, and never stops the others.

    A contestant may use up to `threads`, so with two it may be at its best with one.
    """
    neighbours = Neighbours()
    begun = time.perf_counter()
    ready: dict[int, _Ready] = {}
    failures: dict[Contestant, dict[str, str]] = {}
    contestants = list(dict.fromkeys(entry.contestant for entry in entries))
    for number, entry in enumerate(entries):
        try:
            ready[number] = _prepare(entry)
        except Exception as problem:  # whatever a library throws: it is this rival's failure
            reason = failure(problem)
            failures.setdefault(entry.contestant, {})[f"{entry.setting}, {entry.threads} threads"] = reason
            say(f"  {_title(entry.contestant)}, {entry.setting}, {entry.threads} threads: {reason}")
    say(f"  prepared and compared in {time.perf_counter() - begun:.0f} s")
    picks = _select(ready, threads, seconds * 0.3, quick, cold, say)
    rows: list[Row] = []
    judged: list[Judged] = []
    for budget in threads:
        racing = {c: ready[picks[budget, c]] for c in contestants if (budget, c) in picks}
        samples: dict[Contestant, Sample] = {}
        if racing:
            say(f"  {len(racing)} contestants, {budget} thread{'s' * (budget > 1)}")
            samples = _race(
                {contestant: one.candidate for contestant, one in racing.items()},
                seconds=0.0 if quick else 0.7 * seconds / len(threads),
                least_rounds=3 if quick else 5,
                cold=cold,
            )
        found = [_row(case, budget, c, racing.get(c), samples.get(c), failures.get(c, {}), limits) for c in contestants]
        _compare(found, samples)
        rows += found
        judged += [one for goal in goals if (one := _judge(case, budget, goal, samples)) is not None]
    return Result(case, rows, judged, neighbours.share)


def failure(problem: BaseException) -> str:
    """``failed: reason`` in one line."""
    lines = [line.strip() for line in str(problem).strip().splitlines() if line.strip()]
    text = (lines[0] if lines else type(problem).__name__)[:160]
    if isinstance(problem, UnavailableError):
        return f"not here: {text}"
    return f"failed: {text}" if lines else f"failed: {type(problem).__name__}"


def _title(contestant: Contestant) -> str:
    if contestant.sparsity is None:
        return contestant.name
    return f"{contestant.name} at {100 * contestant.sparsity:g} %"


def _prepare(entry: Entry) -> _Ready:
    torch.set_num_threads(entry.threads)
    with torch.no_grad():
        call = entry.prepare()
        difference = check(call(), entry.wanted, entry.tolerance)
    return _Ready(entry, Candidate(call, entry.threads), difference)


def _race(candidates: dict[Any, Candidate], **options: Any) -> dict[Any, Sample]:
    with torch.no_grad():
        return race(candidates, set_threads=torch.set_num_threads, **options)


def _select(
    ready: dict[int, _Ready],
    threads: Sequence[int],
    seconds: float,
    quick: bool,
    cold: bool,
    say: Callable[[str], None],
) -> dict[tuple[int, Contestant], int]:
    """Each contestant's best setting for each number of threads that it may use."""
    settings: dict[Contestant, list[int]] = {}
    for number, one in ready.items():
        settings.setdefault(one.entry.contestant, []).append(number)
    unclear = [number for numbers in settings.values() if len(numbers) > 1 for number in numbers]
    # The least of a few rounds: a setting is not to be blamed for what else ran in its turn.
    fastest = dict.fromkeys(ready, 0.0)
    if unclear:
        say(f"  {len(unclear)} settings of {len(settings)} contestants")
        samples = _race(
            {number: ready[number].candidate for number in unclear},
            seconds=0.0 if quick else seconds,
            least_rounds=2 if quick else 3,
            most_rounds=7,
            cold=cold,
        )
        fastest.update({number: min(sample.rounds) for number, sample in samples.items()})
    picks: dict[tuple[int, Contestant], int] = {}
    for contestant, numbers in settings.items():
        for budget in threads:
            allowed = [number for number in numbers if ready[number].entry.threads <= budget]
            if allowed:
                picks[budget, contestant] = min(allowed, key=lambda number: fastest[number])
    return picks


def _row(
    case: str,
    threads: int,
    contestant: Contestant,
    racing: _Ready | None,
    sample: Sample | None,
    failures: dict[str, str],
    limits: dict[int, Limits] | None,
) -> Row:
    row = Row(case, threads, contestant, sample=sample, left_out=failures)
    if racing is None:
        row.failed = next(iter(failures.values()), "failed: it has no setting for so few threads")
        return row
    entry = racing.entry
    row.setting, row.setting_threads, row.difference = entry.setting, entry.threads, racing.difference
    if limits and threads in limits and entry.work != Work():
        work = entry.work
        row.limit_seconds, row.limit_name = limits[threads].seconds(work.multiply_adds, work.weight_bytes, work.gathers)
    return row


def _fastest(contestants: Iterable[Contestant], samples: dict[Contestant, Sample]) -> Contestant | None:
    return min((c for c in contestants if c in samples), key=lambda c: samples[c].median, default=None)


def _compare(rows: list[Row], samples: dict[Contestant, Sample]) -> None:
    """Fill in the ratios."""
    baseline = _fastest((c for c in samples if c.baseline), samples)
    for row in rows:
        if row.sample is None:
            continue
        sparsity = row.contestant.sparsity
        csr = [c for c in samples if c.name == CSR and c.sparsity == sparsity and sparsity is not None]
        dense = [c for c in samples if not c.ours and c.sparsity is None]
        peers = [c for c in dense if c.values == "fp32" or row.contestant.values != "fp32"]
        best = _fastest([*peers, *csr], samples)
        if baseline is not None:
            row.over_baseline = ratio(samples[baseline], row.sample)
        if best is not None:
            row.over_best = ratio(samples[best], row.sample)
        if csr and row.contestant.ours:
            row.over_csr = ratio(samples[csr[0]], row.sample)


def _judge(case: str, threads: int, goal: Goal, samples: dict[Contestant, Sample]) -> Judged | None:
    one = next((c for c in samples if c.name == goal.contestant and c.sparsity == goal.sparsity), None)
    if goal.over:
        others = [c for c in samples if c.name in goal.over and c.sparsity in (goal.over_sparsity, None)]
    else:
        others = [c for c in samples if c.baseline]
    other = _fastest(others, samples)
    if one is None or other is None:
        return None
    return Judged(case, threads, goal, ratio(samples[other], samples[one]), _title(other))
