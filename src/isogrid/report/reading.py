"""The report of a finished run, from its directory."""

from __future__ import annotations

from pathlib import Path

from isogrid.errors import FormatError, RunError, UsageError
from isogrid.report.data import ReportData


def read_report(run: Path) -> ReportData:
    """What the run in the directory `run` came to.

    Raises:
        UsageError: the run is not finished, or there is none.
        FormatError: the report is damaged.
        RunError: the report is there and cannot be read.
    """
    file = run / "report.json"
    try:
        return ReportData.from_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        if run.is_file():
            raise UsageError(
                f"{run} is a file; accepted is the directory of a finished run, the --out of isogrid optimize."
            ) from None
        raise UsageError(
            f"{run} is no finished run: report.json is missing; give the --out of isogrid optimize."
        ) from None
    except OSError as problem:
        raise RunError(
            f"{file} cannot be read ({problem.strerror}); accepted is the file that isogrid optimize wrote."
        ) from None
    except FormatError as problem:
        raise FormatError(f"{file} cannot be read. {problem}") from problem
