"""kill -9 at any moment, then the same command again: the same bytes as a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("kill_driver.py")
PLACES = 10
SAME = (
    "config.json", "frontier.json", "frontier.csv", "result.json", "model.onnx", "model.safetensors",
    "dense.safetensors",
)  # fmt: skip

# Sixty runs of a job, one after the other: minutes, also for the test that happens to come first.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder with all runs, and what happened at each place."""
    folder = tmp_path_factory.mktemp("killed")
    driver = subprocess.run(
        [sys.executable, str(DRIVER), str(folder), str(PLACES)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert driver.returncode == 0, driver.stderr
    return folder, [json.loads(line) for line in driver.stdout.splitlines() if line.startswith("{")]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["training", "write", "export"])
def test_a_killed_run_goes_on_to_the_same_bytes(kind: str, killed: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, places = killed
    places = [place for place in places if place["kind"] == kind]
    assert len({place["event"] for place in places}) == PLACES
    for place in places:
        assert place["killed"] == -9, place
        assert place["resumed"] == 0, place
        resumed, whole = folder / kind / str(place["place"]), folder / "whole"
        for name in SAME:
            assert (resumed / name).read_bytes() == (whole / name).read_bytes(), (name, place)
        # Nothing half written, no lock, no checkpoint of a phase that is over.
        assert files(resumed) == files(whole), place


def test_the_kills_hit_what_they_aim_at(killed: tuple[Path, list[dict[str, Any]]]) -> None:
    _, places = killed
    training, write, export = (
        [place["left"] for place in places if place["kind"] == kind] for kind in ("training", "write", "export")
    )
    assert any(name.endswith(".partial.ckpt") for names in training for name in names)
    assert sum(any(name.endswith(".part") for name in names) for names in write) >= 2
    assert any("report.json" in names for names in write)
    assert any("model.safetensors" in names and "model.onnx" not in names for names in export)
    assert all("result.json" not in names for names in training + export)
