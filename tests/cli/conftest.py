"""Commands called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isogrid import cli

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`isogrid` with these arguments, in this process: exit code, stdout, stderr."""

    def run_it(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["isogrid", *map(str, arguments)])
        code = cli._run()
        return (code, *capsys.readouterr())

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("ISOGRID_TRACEBACK", raising=False)
    return run_it
