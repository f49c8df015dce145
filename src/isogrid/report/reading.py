"""The report of a finished run, from its directory."""

from __future__ import annotations

from pathlib import Path

from isogrid.errors import FormatError, UsageError
from isogrid.report.data import ReportData


def read_report(run: Path) -> ReportData:
    """What the run in the directory `run` came to.

    Raises:
        UsageError: the run is not finished, or there is none.
        FormatError: the report is damaged.
    """
    file = run / "report.json"
    try:
        return ReportData.from_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{run} is no finished run: report.json is missing; give the --out of isogrid optimize."
        ) from None
    except FormatError as problem:
        raise FormatError(f"{file} cannot be read. {problem}") from problem
