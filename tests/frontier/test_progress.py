"""What a terminal shows, and that nothing else sees any of it."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from isogrid.frontier.events import EpochEnd, Listener
from isogrid.frontier.progress import TerminalProgress
from isogrid.metrics import ACCURACY, Metric


def play(listener: Listener) -> None:
    listener.planned(40)
    listener.phase_started("dense", 20, 20)
    listener.phase_started("rung 12, 97.66 %", 10, 4)
    listener.step_taken("rung 12, 97.66 %", 0.45)
    listener.step_taken("rung 12, 97.66 %", 0.5)
    listener.epoch_ended(EpochEnd("rung 12, 97.66 %", 5, 10, 50, 0.123, 0.9722, 0.9651, {}))
    listener.rung_measured(0.9651, 0.9722, True)
    listener.rung_measured(0.98, 0.9, False)


def screen(text: str) -> list[str]:
    """The lines as they were drawn, without colours and cursor movements."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_shows_rung_metric_sparsity_and_time_left_on_one_line(width: int) -> None:
    out = io.StringIO()
    listener = TerminalProgress(Console(file=out, force_terminal=True, width=width), ACCURACY)
    play(listener)
    listener._progress.refresh()
    last = screen(out.getvalue())[-2:]
    listener.closed()
    assert all(len(line) <= width for line in screen(out.getvalue()))
    assert re.fullmatch(r"whole job, at most ━.* 25/40 epochs +(\d:\d\d:\d\d|-:--:--)", last[0])
    assert re.fullmatch(r"rung 12, 97\.66 % +━.* 5/10 +97\.22 %, 96\.5 % sparse (\d:\d\d:\d\d|-:--:--)", last[1])
    lines = screen(out.getvalue())
    assert "   96.51 % sparse: accuracy 97.22 % holds the floor" in lines
    assert "   98.00 % sparse: accuracy 90.00 % breaks the floor" in lines


def test_the_bars_are_gone_and_the_cursor_is_back_in_the_end() -> None:
    out = io.StringIO()
    listener = TerminalProgress(Console(file=out, force_terminal=True, width=80), ACCURACY)
    play(listener)
    listener.closed()
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")
    assert out.getvalue().endswith("\x1b[1A\x1b[2K")


@pytest.mark.parametrize(
    "console", [Console(file=io.StringIO()), Console(file=io.StringIO(), force_terminal=True, quiet=True)]
)
def test_no_terminal_or_no_wish_means_not_a_byte(console: Console) -> None:
    listener = TerminalProgress(console, ACCURACY)
    play(listener)
    listener.closed()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_a_metric_that_is_no_percentage_is_written_as_it_is() -> None:
    out = io.StringIO()
    listener = TerminalProgress(Console(file=out, force_terminal=True, width=80), Metric("error", False))
    play(listener)
    listener.closed()
    assert "96.51 % sparse: error 0.9722 holds" in "".join(screen(out.getvalue()))


def test_closing_what_never_began_is_fine() -> None:
    TerminalProgress(Console(file=io.StringIO(), force_terminal=True), ACCURACY).closed()


def test_the_name_of_a_metric_is_no_markup() -> None:
    out = io.StringIO()
    listener = TerminalProgress(Console(file=out, force_terminal=True, width=80), Metric("F1[/macro]"))
    play(listener)
    listener.closed()
    assert any("F1[/macro]" in line for line in screen(out.getvalue()))
