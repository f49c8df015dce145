"""The run directory: what it refuses, what it keeps, and what damage it sees."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from isogrid.errors import RunError
from isogrid.frontier.rundir import RunDirectory

CONFIG = {"isogrid": "0", "task": "t", "seed": 0, "recipe": {"epochs": 3, "lr": 0.1}}


def start(path: Path, config: dict[str, Any] = CONFIG, *, force: bool = False) -> bool:
    with RunDirectory(path).opened(config, force=force) as finished:
        return finished


def test_a_new_run_gets_its_folder_and_a_started_one_is_found(tmp_path: Path) -> None:
    assert start(tmp_path / "a" / "b") is False
    assert json.loads((tmp_path / "a" / "b" / "config.json").read_text()) == CONFIG
    assert start(tmp_path / "a" / "b") is False
    RunDirectory(tmp_path / "a" / "b").write_json("result.json", {})
    assert start(tmp_path / "a" / "b") is True


def test_nothing_is_left_but_the_run(tmp_path: Path) -> None:
    start(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "checkpoints"}


@pytest.mark.parametrize("finished", [False, True])
def test_half_written_files_of_a_killed_process_are_swept(tmp_path: Path, finished: bool) -> None:
    start(tmp_path)
    if finished:
        RunDirectory(tmp_path).write_json("result.json", {})
    for folder in (tmp_path, tmp_path / "checkpoints"):
        (folder / ".model.onnx.0123.part").write_bytes(b"half")
    (tmp_path / ".lock").touch()
    assert start(tmp_path) is finished
    assert not list(tmp_path.rglob(".*"))


def test_another_run_is_refused_with_the_very_value_that_differs(tmp_path: Path) -> None:
    start(tmp_path)
    other = {**CONFIG, "recipe": {"epochs": 3, "lr": 0.2}}
    with pytest.raises(RunError, match=r"a run with recipe\.lr = 0\.1, and this one has 0\.2; .* --force"):
        start(tmp_path, other)
    assert start(tmp_path, other, force=True) is False
    assert json.loads((tmp_path / "config.json").read_text()) == other


def test_a_setting_that_one_of_them_lacks_differs_too(tmp_path: Path) -> None:
    start(tmp_path, {**CONFIG, "old": 1})
    with pytest.raises(RunError, match="old = 1, and this one has None"):
        start(tmp_path)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "foreign", [{"notes.txt": "x"}, {"config.json": '{"architectures": ["Bert"]}', "model.safetensors": "weights"},
                {"model.onnx": "a model of another program"}, {"config.json": "[1, 2]"}],
)  # fmt: skip
def test_files_of_others_are_neither_taken_nor_removed(tmp_path: Path, foreign: dict[str, str], force: bool) -> None:
    for name, text in foreign.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match="files that are no run's"):
        start(tmp_path, force=force)
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == foreign


def test_checkpoints_without_a_configuration_belong_to_nobody_known(tmp_path: Path) -> None:
    start(tmp_path)
    RunDirectory(tmp_path).save_checkpoint("dense-00", b"state")
    (tmp_path / "config.json").unlink()
    with pytest.raises(RunError, match="files that are no run's"):
        start(tmp_path)


def test_a_start_that_was_killed_before_its_configuration_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.0a.part").write_text("{")
    assert start(tmp_path) is False


def test_force_removes_the_runs_own_files_only(tmp_path: Path) -> None:
    start(tmp_path)
    run = RunDirectory(tmp_path)
    run.write_json("result.json", {})
    run.save_checkpoint("dense-00", b"state")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events").touch()
    (tmp_path / "notes.txt").write_text("mine")
    start(tmp_path, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "checkpoints", "notes.txt"}
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("after", range(6))
def test_force_that_is_cut_off_never_leaves_old_checkpoints_to_a_new_run(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path)
    run = RunDirectory(tmp_path)
    for name in ("result.json", "frontier.json"):
        run.write_json(name, {})
    run.save_checkpoint("dense-00", b"state")
    left = [after]
    unlink = Path.unlink

    def cut(self: Path, missing_ok: bool = False) -> None:
        if self.name != ".lock":
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", cut)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, {**CONFIG, "seed": 1}, force=True)
    monkeypatch.undo()
    with pytest.raises(RunError, match="seed = 0"):
        start(tmp_path, {**CONFIG, "seed": 1})


def test_a_damaged_configuration_is_named_and_can_be_forced(tmp_path: Path) -> None:
    start(tmp_path)
    (tmp_path / "config.json").write_text('{"isogrid": ')
    with pytest.raises(RunError, match=r"config\.json is damaged: it is no JSON; run again with --force\."):
        start(tmp_path)
    assert start(tmp_path, force=True) is False


def _hold(path: str, pipe: Connection) -> None:
    with RunDirectory(path).opened(CONFIG):
        pipe.send("held")
        pipe.recv()
        os._exit(9)  # no chance to let go


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    other = context.Process(target=_hold, args=(str(tmp_path), theirs), daemon=True)
    other.start()
    try:
        assert ours.recv() == "held"
        with pytest.raises(RunError, match="in use by another process"):
            start(tmp_path)
    finally:
        ours.send("die")
        other.join()
    assert start(tmp_path) is False


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/isogrid/run")):
        with pytest.raises(RunError, match=r"The run directory .* cannot be written \(.*\); name one that can\."):
            start(path)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    start(tmp_path)
    run = RunDirectory(tmp_path)
    state = bytes(range(256))
    run.save_checkpoint("rung-01", state)
    assert run.load_checkpoint("rung-01") == state
    assert run.load_checkpoint("rung-02") is None
    run.drop_checkpoint("rung-01")
    assert run.load_checkpoint("rung-01") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:30],
        lambda _: b"",
        lambda raw: raw[:200] + bytes([raw[200] ^ 1]) + raw[201:],
        lambda raw: raw[:30] + bytes([raw[30] ^ 1]) + raw[31:],
        lambda raw: raw[:85] + b" " + raw[86:],
        lambda raw: raw + b"\0",
        lambda _: b"PK\x03\x04 a checkpoint of another program",
    ],
    ids=["cut", "half", "header", "empty", "flipped", "digest", "newline", "longer", "foreign"],
)
def test_a_damaged_checkpoint_is_seen(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    start(tmp_path)
    run = RunDirectory(tmp_path)
    run.save_checkpoint("dense-00", bytes(range(256)))
    path = tmp_path / "checkpoints" / "dense-00.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"dense-00\.ckpt is damaged; remove that file to redo its phase"):
        run.load_checkpoint("dense-00")


def test_the_lock_is_let_go_of(tmp_path: Path) -> None:
    with RunDirectory(tmp_path).opened(CONFIG):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()
    with (tmp_path / "probe").open("ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
