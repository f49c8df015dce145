"""What the page says a user can write passes the suites as the page says, and what is wrong does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from docs.test_pages import ROOT, blocks

PAGE = ROOT / "docs" / "methods" / "your-own.md"


def outcome_of(folder: Path, *, wrong: tuple[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the page's two files as the page says; `wrong` replaces a piece of the first."""
    for block in blocks(PAGE):
        assert block.title is not None
        code = block.code
        if wrong is not None and block.title == "mine.py":
            assert wrong[0] in code
            code = code.replace(*wrong)
        (folder / block.title).write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:.", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_the_page_shows_passes_the_suites(tmp_path: Path) -> None:
    done = outcome_of(tmp_path)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_a_method_that_passes_its_sparsity_fails(tmp_path: Path) -> None:
    done = outcome_of(tmp_path, wrong=("min(goal, self.target_sparsity)", "goal"))
    assert done.returncode == 1, done.stdout
    assert "failed" in done.stdout
