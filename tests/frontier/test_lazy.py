"""The search needs no framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

import isogrid.frontier


def test_what_every_framework_shares_loads_without_pytorch() -> None:
    program = "import sys, isogrid.frontier.work as work; work.OptimizeResult; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_are_loaded_when_they_are_used() -> None:
    for name in isogrid.frontier.__all__:
        assert getattr(isogrid.frontier, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        isogrid.frontier.nothing  # noqa: B018
