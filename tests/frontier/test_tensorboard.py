"""Scalars for TensorBoard."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isogrid.errors import MissingDependencyError
from isogrid.frontier import EpochEnd, optimize
from isogrid.frontier.tensorboard import TensorBoardLog

pytest.importorskip("tensorboard")


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(folder))
        found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def epoch(number: int) -> EpochEnd:
    return EpochEnd("dense", number, 3, number, 0.5 / number, 0.1 * number, 0.25, {"penalty_factor": 2.0})


def test_each_epoch_has_its_scalars(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path / "log")
    assert not (tmp_path / "log").exists()
    log.phase_started("dense", 3, 0)
    for number in (1, 2):
        log.epoch_ended(epoch(number))
    log.closed()
    scalars = read(tmp_path / "log")
    assert set(scalars) == {"loss", "metric", "sparsity", "penalty_factor"}
    assert scalars["loss"] == [(1, pytest.approx(0.5)), (2, pytest.approx(0.25))]
    assert scalars["penalty_factor"] == [(1, 2.0), (2, 2.0)]


def test_a_resumed_run_goes_on_where_its_checkpoint_is(tmp_path: Path) -> None:
    killed = TensorBoardLog(tmp_path)
    killed.phase_started("dense", 3, 0)
    for number in (1, 2, 3):
        killed.epoch_ended(epoch(number))
    killed._writer.flush()  # type: ignore[union-attr]
    resumed = TensorBoardLog(tmp_path)
    resumed.phase_started("dense", 3, 2)  # the third epoch was logged, and its checkpoint was not written
    resumed.epoch_ended(epoch(3))
    resumed.closed()
    killed.closed()
    assert [step for step, _ in read(tmp_path)["loss"]] == [1, 2, 3]


@pytest.mark.usefixtures("no_page")
def test_a_whole_run_is_logged(script: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path / "run" / "tensorboard")
    optimize(**script(), out=tmp_path / "run", listener=log)
    log.closed()
    scalars = read(tmp_path / "run" / "tensorboard")
    steps = [step for step, _ in scalars["metric"]]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 5
    assert scalars["sparsity"][2][1] == 0
    assert scalars["sparsity"][3][1] == pytest.approx(0.5, abs=0.01)


def test_without_the_package_it_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'isogrid\[tensorboard\]'"):
        TensorBoardLog(tmp_path)
