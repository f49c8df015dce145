"""Results: tables on the terminal, a JSON file, a plot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.common.contest import Judged, Result, Row
from benchmarks.common.machine import description
from benchmarks.common.options import RESULTS, SAVED
from benchmarks.limits import Limits
from isogrid.runtime.timing import Ratio

BUSY = 0.15
"""Others take so much of the machine that no number should be believed."""


def console() -> Console:
    """As wide as a table needs where nobody looks at a terminal."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made = Console(highlight=False, width=int(os.environ.get("COLUMNS", "150")))
    return made


def sayer(out: Console) -> Callable[[str], None]:
    """Prints progress, whose brackets are no markup."""
    return lambda text: out.print(text, markup=False, soft_wrap=True)


def begin(title: str, threads: Sequence[int], limits: dict[int, Limits], out: Console) -> None:
    """Say what is measured where, and warn if it is not quiet."""
    machine = description()
    out.print(f"[bold]{title}[/bold]: {machine['processor']}, {machine['cores']} cores, {_and(threads)} threads")
    for found in limits.values():
        out.print(f"  {describe(found)}")
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
        out.print(f"[yellow]The machine is busy (load {os.getloadavg()[0]:.1f}): do not believe the numbers.[/yellow]")


def describe(limits: Limits) -> str:
    """A line of the limits."""
    read = ", ".join(f"{level} {rate / 1e9:.0f}" for level, rate in limits.read.items())
    return (
        f"{limits.threads} thread{'s' * (limits.threads > 1)}: {limits.multiply_adds / 1e9:.1f} G multiply-adds/s, "
        f"{limits.gathers / 1e9:.2f} G gathered loads/s, read GB/s {read}"
    )


def show(result: Result, threads: int, out: Console) -> None:
    """The table of a contest."""
    rows = [row for row in result.rows if row.threads == threads]
    with_csr = any(row.over_csr for row in rows)
    with_limit = any(row.of_limit for row in rows)
    table = Table(title=f"{result.case}, {threads} thread{'s' * (threads > 1)}", title_justify="left")
    for name in ("who", "zeros", "ms", "quartiles", "over baseline (95 %)", "over best rival"):
        table.add_column(name, justify="left" if name == "who" else "right", no_wrap=True)
    if with_csr:
        table.add_column("over CSR", justify="right", no_wrap=True)
    if with_limit:
        table.add_column("of limit", justify="right", no_wrap=True)
    table.add_column("setting", overflow="fold")
    for row in sorted(rows, key=_order):
        table.add_row(*map(escape, _cells(row, with_csr, with_limit)), style="bold" if row.contestant.ours else None)
    out.print(table)
    baseline = list(dict.fromkeys(row.contestant.name for row in rows if row.contestant.baseline))
    notes = [f"baseline (*): the fastest of {', '.join(baseline)}"] if baseline else []
    if result.neighbours is not None:
        notes.append(f"other processes took {100 * result.neighbours:.0f} % of the machine")
        if result.neighbours > BUSY:
            notes[-1] = f"[yellow]{notes[-1]}[/yellow]"
    if notes:
        out.print("  " + "; ".join(notes))


def show_goals(judged: Sequence[Judged], out: Console) -> None:
    """Which goals are reached, with the most threads."""
    most = max((one.threads for one in judged), default=0)
    judged = [one for one in judged if one.threads == most]
    if not judged:
        return
    table = Table(title=f"Goals, {most} thread{'s' * (most > 1)}", title_justify="left")
    for name in ("case", "who", "zeros", "goal", "found (95 %)", "over", ""):
        table.add_column(name)
    for one in judged:
        goal = one.goal
        table.add_row(
            one.case,
            goal.contestant,
            _percent(goal.sparsity),
            f"{goal.least:g}x",
            str(one.ratio),
            one.over,
            "[green]reached[/green]" if one.reached else "[red]missed[/red]",
        )
    out.print(table)


def write(
    name: str,
    results: Sequence[Result],
    limits: dict[int, Limits],
    options: dict[str, Any],
    *,
    save: bool,
    out: Console,
    extra: dict[str, Any] | None = None,
) -> None:
    """The JSON file and the plot, in the folder that git ignores and, with `save`, in the one that it tracks."""
    document = {
        "benchmark": name,
        "machine": description(),
        "options": {key: value for key, value in options.items() if key != "save"},
        "limits": {str(threads): found.as_json() for threads, found in limits.items()},
        "rows": [_row_json(row) for result in results for row in result.rows],
        "goals": [_goal_json(one) for result in results for one in result.goals],
        "neighbours": {result.case: result.neighbours for result in results},
        **(extra or {}),
    }
    for folder in (RESULTS, SAVED) if save else (RESULTS,):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        drawn = plot(name, results, folder / f"{name}.png")
        out.print(f"Written: {_short(path)}" + (f", {_short(drawn)}" if drawn else ""))


def plot(name: str, results: Sequence[Result], path: Path) -> Path | None:
    """Speedup over the baseline against sparsity, a panel for each case; None where there is nothing to draw."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return None
    panels = []
    for result in results:
        most = max((row.threads for row in result.rows), default=0)
        lines: dict[str, list[Row]] = {}
        for row in result.rows:
            if row.threads == most and row.contestant.sparsity is not None and row.over_baseline is not None:
                lines.setdefault(row.contestant.name, []).append(row)
        if any(len(line) > 1 for line in lines.values()):
            panels.append((result.case, most, lines))
    if not panels:
        return None
    columns = min(3, len(panels))
    height = -(-len(panels) // columns)
    with mpl.rc_context({"font.size": 8, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.2 * columns, 3.2 * height), layout="constrained")
        axes = figure.subplots(height, columns, squeeze=False).ravel()
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for number, (axis, (case, most, lines)) in enumerate(zip(axes, panels, strict=False)):
            _panel(axis, f"{case}, {most} thread{'s' * (most > 1)}", lines)
            if number % columns == 0:
                axis.set_ylabel("times as fast as the best dense")
        figure.savefig(path, dpi=130)
    return path


def _panel(axis: Any, title: str, lines: dict[str, list[Row]]) -> None:
    for label, unsorted in lines.items():
        line = sorted(unsorted, key=lambda row: row.contestant.sparsity or 0)
        # The share that is left, so that 90, 95 and 99 % lie apart as their work does.
        x = [1 - (row.contestant.sparsity or 0) for row in line]
        found = [row.over_baseline for row in line if row.over_baseline is not None]
        style = {"marker": "o", "markersize": 3} if line[0].contestant.ours else {"marker": ".", "linestyle": "--"}
        (drawn,) = axis.plot(x, [one.median for one in found], label=label, linewidth=1.2, **style)
        axis.fill_between(
            x, [one.low for one in found], [one.high for one in found], color=drawn.get_color(), alpha=0.15, linewidth=0
        )
    axis.axhline(1, color="0.5", linewidth=0.8)
    axis.set(title=title, xscale="log", yscale="log", xlabel="zeros")
    left = sorted({1 - (row.contestant.sparsity or 0) for line in lines.values() for row in line}, reverse=True)
    axis.set_xticks(left, [f"{100 * (1 - x):g} %" for x in left], rotation=45)
    axis.minorticks_off()
    axis.invert_xaxis()
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    low, high = axis.get_ylim()
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high]
    axis.set_yticks(ticks)
    axis.grid(alpha=0.25)
    axis.legend()


def _order(row: Row) -> tuple[Any, ...]:
    return row.contestant.ours, row.contestant.sparsity is not None, row.contestant.name, row.contestant.sparsity or 0


def _cells(row: Row, with_csr: bool, with_limit: bool) -> list[str]:
    who = row.contestant.name + (" *" if row.contestant.baseline else "")
    zeros = _percent(row.contestant.sparsity)
    if row.sample is None:
        return [who, zeros, "", "", "", "", *[""] * (with_csr + with_limit), row.failed or ""]
    low, high = row.sample.quartiles
    cells = [who, zeros, _ms(row.sample.median), f"{_ms(low)} .. {_ms(high)}"]
    cells.append("" if row.over_baseline is None else _ratio(row.over_baseline))
    cells.append("" if row.over_best is None else f"{row.over_best.median:.2f}x")
    if with_csr:
        cells.append("" if row.over_csr is None else f"{row.over_csr.median:.2f}x")
    if with_limit:
        cells.append(
            "" if row.of_limit is None else f"{100 * row.of_limit:.0f} % {_LIMIT_MARKS.get(row.limit_name or '', '')}"
        )
    threads = f"{row.setting_threads} thread{'s' * (row.setting_threads > 1)}"
    return [*cells, f"{row.setting}, {threads}" if row.setting else threads]


_LIMIT_MARKS = {"multiply-adds": "mac", "gathered loads": "gather"} | {
    f"reading from {level}": level for level in ("L1", "L2", "L3", "DRAM")
}


def _row_json(row: Row) -> dict[str, Any]:
    sample = row.sample
    return {
        "case": row.case,
        "threads": row.threads,
        "contestant": row.contestant.name,
        "sparsity": row.contestant.sparsity,
        "ours": row.contestant.ours,
        "baseline": row.contestant.baseline,
        "setting": row.setting,
        "setting_threads": row.setting_threads,
        "milliseconds": None
        if sample is None
        else {
            "median": 1e3 * sample.median,
            "low": 1e3 * sample.quartiles[0],
            "high": 1e3 * sample.quartiles[1],
            "rounds": [1e3 * seconds for seconds in sample.rounds],
        },
        "difference": row.difference,
        "failed": row.failed,
        "settings_left_out": row.left_out,
        "over_baseline": _ratio_json(row.over_baseline),
        "over_best": _ratio_json(row.over_best),
        "over_csr": _ratio_json(row.over_csr),
        "limit_milliseconds": None if row.limit_seconds is None else 1e3 * row.limit_seconds,
        "limit": row.limit_name,
        "of_limit": row.of_limit,
    }


def _goal_json(one: Judged) -> dict[str, Any]:
    return {
        "case": one.case,
        "threads": one.threads,
        "contestant": one.goal.contestant,
        "sparsity": one.goal.sparsity,
        "least": one.goal.least,
        "over": one.over,
        "reached": one.reached,
        "found": _ratio_json(one.ratio),
    }


def _ratio_json(found: Ratio | None) -> dict[str, float] | None:
    return None if found is None else {"median": found.median, "low": found.low, "high": found.high}


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:.{max(0, 3 - len(str(int(milliseconds))) + (milliseconds < 10))}f}"


def _ratio(found: Ratio) -> str:
    return f"{found.median:.2f}x ({found.low:.2f} .. {found.high:.2f})"


def _percent(sparsity: float | None) -> str:
    return "" if sparsity is None else f"{100 * sparsity:g} %"


def _and(threads: Sequence[int]) -> str:
    return " and ".join(map(str, threads))


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
