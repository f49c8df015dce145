"""Runs a command: every error that can be foreseen is one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from isogrid import _NEEDS
from isogrid.cli.app import app
from isogrid.errors import IsogridError, MissingDependencyError

# Typer took click into itself; the class is where its own exceptions come from, in either case.
_WrongUsage: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def main() -> None:
    """The entry point: every error that can be foreseen is one sentence and an exit code."""
    sys.exit(run())


def run() -> int:
    """Run the command line of this process and give its exit code."""
    try:
        code = _answer()
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as problem:
        # Who reads the output has gone, which is no failure worth a word; or its disk is full.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(problem, BrokenPipeError):
            _complain(f"The output cannot be written ({problem.strerror}).")
        code = 1
    return code


def _answer() -> int:
    """Run the command and turn whatever it raises into a sentence and an exit code."""
    try:
        code = app(prog_name="isogrid", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except typer.Exit as stop:
        code = stop.exit_code
    except _WrongUsage as problem:
        problem.show()  # type: ignore[attr-defined]
        return 2
    except IsogridError as problem:
        _complain(str(problem))
        return problem.exit_code
    except BrokenPipeError:
        raise
    except Exception as problem:
        if isinstance(problem, OSError) and problem.errno == errno.ENOSPC and problem.filename is None:
            raise  # what is written to has no name: it is the output
        if os.environ.get("ISOGRID_TRACEBACK"):
            raise
        library = (problem.name or "").partition(".")[0] if isinstance(problem, ModuleNotFoundError) else ""
        if library in _NEEDS:
            extra = f"isogrid[{_NEEDS[library]}]"
            _complain(f"This needs {library}, which is not installed; install it with: pip install '{extra}'.")
            return MissingDependencyError.exit_code
        where = f"{_where(problem)}; ISOGRID_TRACEBACK=1 shows the whole traceback"
        _complain(f"{type(problem).__name__}: {problem} ({where}).")
        return 1
    if code == 130:
        # Typer returns this code for an interrupt; by itself no command does.
        goes_on = "; the same command goes on from the last finished pass" if "optimize" in sys.argv[1:2] else ""
        _complain(f"Interrupted{goes_on}.", "Stopped:")
    return code if isinstance(code, int) else 0


def _complain(sentence: str, word: str = "Error:") -> None:
    """One line on the error stream, however narrow the terminal, so that it can be searched for."""
    Console(stderr=True).print(f"[red]{word}[/red] {escape(sentence)}", highlight=False, soft_wrap=True)


def _where(problem: BaseException) -> str:
    """The last line that is the user's own, or the very last where none is."""
    own = [Path(__file__).parent.parent, *(Path(found) for found in sys.path if found.endswith("-packages"))]
    frames = traceback.extract_tb(problem.__traceback__)
    theirs = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(folder) for folder in own)]
    frame = (theirs or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"
