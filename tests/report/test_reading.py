"""A report is read from the directory of its run, or what is wrong with that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from isogrid.errors import FormatError, UsageError
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
