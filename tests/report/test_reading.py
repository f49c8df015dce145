"""A report is read from the directory of its run, or what is wrong with that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from isogrid.errors import FormatError, RunError, UsageError
from isogrid.report.reading import read_report


@pytest.mark.parametrize("there", [True, False])
def test_a_run_without_a_report_is_not_finished(tmp_path: Path, there: bool) -> None:
    run = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(UsageError, match=r"is no finished run: report\.json is missing"):
        read_report(run)


def test_a_damaged_report_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{", encoding="utf-8")
    with pytest.raises(FormatError, match=r"report\.json cannot be read\. The report is not valid JSON"):
        read_report(tmp_path)


def test_a_report_that_is_no_file_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(RunError, match=r"report\.json cannot be read \(Is a directory\); accepted is the file"):
        read_report(tmp_path)


def test_a_file_in_place_of_the_directory_of_a_run_is_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"report\.json is a file; accepted is the directory of a finished run"):
        read_report(file)
