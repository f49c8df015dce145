"""What a benchmark found: rows, as a table, as JSON and as a plot."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from isogrid.errors import MissingDependencyError, RunError, UsageError
from isogrid.runtime.timing import Ratio, Sample
from isogrid.units import counted, size

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 120
_PLOTS = (".png", ".svg", ".pdf")
_LEFT_OUT = ("p90", "per s", "differs")
"""Columns for which a narrow console has no room."""


@dataclass(frozen=True)
class Row:
    """One contestant.

    Attributes:
        who: what ran, such as ``"ONNX Runtime"``.
        file: the name of the model that was given.
        sparsity: zero share of the targets; with the random masks for a row of ``--at``.
        masked: whether random masks made these zeros.
        ours: whether the native operators ran.
        sample: seconds of a call.
        speedup: how many times faster than the baseline, with its 95 % interval; None for the baseline itself.
        difference: largest difference of the outputs from ONNX Runtime's on the same weights, as a fraction of the
            largest output; None where this is what is compared with.
        bytes: of the file.
        memory: bytes by which a process grows that loads and runs it; None where that is not known.
        note: a word on how, such as the kind of quantisation.
    """

    who: str
    file: str
    sparsity: float
    masked: bool
    ours: bool
    sample: Sample
    speedup: Ratio | None
    difference: float | None
    bytes: int
    memory: int | None
    note: str = ""

    @property
    def title(self) -> str:
        """Who, and how."""
        return f"{self.who}, {self.note}" if self.note else self.who

    def to_json(self, batch: int) -> dict[str, Any]:
        """All of it as plain data; times in milliseconds."""
        low, high = self.sample.quartiles
        return {
            "who": self.who,
            "note": self.note,
            "file": self.file,
            "sparsity": self.sparsity,
            "random_mask": self.masked,
            "ms": 1e3 * self.sample.median,
            "ms_quartiles": [1e3 * low, 1e3 * high],
            **{f"ms_p{percent}": 1e3 * self.sample.percentile(percent) for percent in (50, 90, 99)},
            "calls": len(self.sample.calls),
            "samples_per_second": batch / self.sample.median,
            "times_faster": None if self.speedup is None else self.speedup.median,
            "times_faster_95": None if self.speedup is None else [self.speedup.low, self.speedup.high],
            "difference": self.difference,
            "bytes": self.bytes,
            "memory_bytes": self.memory,
        }


@dataclass(frozen=True)
class Benchmark:
    """All rows of one race, the baseline (plain ONNX Runtime on the first file) first.

    Attributes:
        rows: everyone who took part.
        threads, batch: of each call.
        notes: who took no part, and why.
    """

    rows: tuple[Row, ...]
    threads: int
    batch: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The rows, the machine and the versions as plain data."""
        return {
            "machine": machine(),
            "threads": self.threads,
            "batch": self.batch,
            "rows": [row.to_json(self.batch) for row in self.rows],
            "notes": list(self.notes),
        }

    def show(self, console: Console) -> None:
        """Print the table and the notes; a console of 120 columns has room for all of it."""
        wide = console.width >= _WIDE
        title = f"{self.rows[0].file}: {counted(self.batch, 'sample')} a call, {counted(self.threads, 'thread')}"
        table = Table(
            title=title,
            title_justify="left",
            box=box.SIMPLE_HEAD if console.is_terminal else None,
            pad_edge=False,
            header_style="bold",
        )
        several = len({row.file for row in self.rows}) > 1
        table.add_column("runs in")
        names = ("zeros", "ms", "p90", "p99", "per s", "times faster", "file", "memory", "differs")
        for name in names:
            if wide or name not in _LEFT_OUT:
                table.add_column(name, justify="right", no_wrap=name != "times faster")
        for row in self.rows:
            cells = [
                cell for name, cell in zip(names, self._cells(row, wide), strict=True) if wide or name not in _LEFT_OUT
            ]
            name = f"{row.title}: {row.file}" if several else row.title
            table.add_row(Text(name), *cells, style="bold" if row.ours else "")
        console.print(table)
        if any(row.masked for row in self.rows):
            console.print("~ random zeros, for what trained ones would bring", highlight=False)
        for note in self.notes:
            console.print(note, highlight=False)

    def _cells(self, row: Row, wide: bool) -> list[str]:
        between = " " if wide else "\n"
        faster = "1" if row.speedup is None else f"{row.speedup.median:.2f}"
        interval = "" if row.speedup is None else f"{between}({row.speedup.low:.2f}-{row.speedup.high:.2f})"
        return [
            ("~" if row.masked else "") + f"{100 * row.sparsity:.1f} %",
            _ms(row.sample.median),
            _ms(row.sample.percentile(90)),
            _ms(row.sample.percentile(99)),
            f"{self.batch / row.sample.median:,.0f}",
            faster + interval,
            size(row.bytes),
            "" if row.memory is None else size(row.memory),
            "" if row.difference is None else f"{row.difference:.0e}",
        ]

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write a chart of the times, as .png, .svg or .pdf.

        Raises:
            As `check_plot`; RunError too where the disk is full, say.
        """
        check_plot(path)
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 1.2 + 0.42 * len(self.rows)), layout="constrained")
        axes = figure.subplots()
        names = [f"{row.title}, {100 * row.sparsity:.1f} % zeros" for row in self.rows]
        times = [1e3 * row.sample.median for row in self.rows]
        spread = [[1e3 * abs(row.sample.median - edge) for edge in row.sample.quartiles] for row in self.rows]
        bars = axes.barh(
            range(len(names)), times, xerr=list(zip(*spread, strict=True)), height=0.6,
            color=["#1f77b4" if row.ours else "#b0b7c3" for row in self.rows], ecolor="#444444",
        )  # fmt: skip
        labels = ["" if row.speedup is None else f"  {row.speedup.median:.2f}x" for row in self.rows]
        axes.bar_label(bars, [f" {ms:.3g} ms{label}" for ms, label in zip(times, labels, strict=True)])
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * max(times))
        axes.set_xlabel(f"milliseconds a call of {self.batch}, {self.threads} threads: median and quartiles")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(self.rows[0].file, loc="left")
        try:
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as problem:
            raise RunError(f"The plot {os.fspath(path)} cannot be written: {problem}.") from None


def check_plot(path: str | os.PathLike[str]) -> None:
    """Whether a chart can be written there, before the work for it is done.

    Raises:
        UsageError: another kind of file.
        MissingDependencyError: matplotlib is not installed.
        RunError: there is no such folder, or it is a folder itself.
    """
    file = Path(path)
    if file.suffix.lower() not in _PLOTS:
        raise UsageError(f"The plot {file} is of an unknown kind; accepted are {', '.join(_PLOTS)}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "Plots need matplotlib, which is not installed; install it with: pip install 'isogrid[report]'."
        )
    if file.is_dir() or not file.parent.is_dir():
        raise RunError(f"The plot {file} cannot be written; it must be a file in a folder that exists.")


def machine() -> dict[str, Any]:
    """The processor and what ran on it.

    >>> sorted(machine())
    ['processor', 'system', 'targets', 'versions']
    """
    from isogrid import _native
    from isogrid.versions import versions

    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "processor": f"{processor}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "targets": list(_native.targets()),
        "versions": versions(),
    }


def _ms(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:.3f}" if ms < 10 else f"{ms:.2f}" if ms < 100 else f"{ms:.1f}"
