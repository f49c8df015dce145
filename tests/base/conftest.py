"""These tests are about an environment without PyTorch: `make test-base` makes one and runs them there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

collect_ignore = (
    [file.name for file in Path(__file__).parent.glob("test_*.py")] if importlib.util.find_spec("torch") else []
)


def pytest_report_header() -> str | None:
    return "tests/base is left to `make test-base`: PyTorch is installed here" if collect_ignore else None
