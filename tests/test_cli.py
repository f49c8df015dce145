"""The command line: what it prints, what it refuses, and the code it ends with."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import isogrid.frontier.training
import isogrid.frontier.writing
from isogrid import __version__, cli
from isogrid.formats.files import write_atomically
from isogrid.frontier import Listener, optimize
from isogrid.frontier.rundir import RunDirectory

TINY = Path(__file__).parent / "frontier" / "tiny_task.py"
CLI = [sys.executable, "-c", "import isogrid.cli; isogrid.cli.main()"]

Result = tuple[int, str, str]
Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing has tests of its own."""
    monkeypatch.setattr("isogrid.frontier.writing.measure_speed", lambda *_: None)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`isogrid` with these arguments, in this process: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["isogrid", *map(str, arguments)])
        code = cli._run()
        return (code, *capsys.readouterr())

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("ISOGRID_TRACEBACK", raising=False)
    # The page has tests of its own.
    monkeypatch.setattr(
        isogrid.frontier.writing, "write_html", lambda _, path: write_atomically(path, b"<html></html>")
    )
    return call


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny task's finished run."""
    return optimize(str(TINY), max_drop="2pt", out=tmp_path_factory.mktemp("cli") / "whole").path


def error_of(result: Result, code: int) -> str:
    """The sentence of a run that must have failed with `code`: one line, nothing else, no traceback."""
    assert result[0] == code, result
    assert result[1] == ""
    lines = result[2].splitlines()
    assert len(lines) == 1, result[2]
    assert "Traceback" not in lines[0]
    assert lines[0].startswith("Error: ")
    assert lines[0].endswith((".", ")"))
    return lines[0]


def files_of(folder: Path) -> dict[str, bytes]:
    names = ("frontier.json", "result.json", "model.onnx", "model.safetensors", "dense.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def task_file(folder: Path, body: str = "", head: str = "") -> Path:
    """A task like the tiny one with something of its own."""
    sys_path = f"import sys\nsys.path.insert(0, {str(TINY.parent)!r})\n"
    text = f"{sys_path}{head}\nfrom tiny_task import Clouds\nimport torch\n\nclass Mine(Clouds):\n    name = 'mine'\n"
    path = folder / "mine.py"
    path.write_text(text + "".join(f"    {line}\n" for line in body.splitlines()))
    return path


# -- what it prints --------------------------------------------------------------------------------------------------


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"isogrid {__version__}\n", "")


def test_without_a_command_it_shows_its_help(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    for command in ("optimize", "inspect", "report", "tasks", "methods", "pack", "unpack", "info"):
        assert command in out + err


@pytest.mark.parametrize(
    "command", [[], ["optimize"], ["inspect"], ["report"], ["tasks"], ["methods"], ["pack"], ["unpack"], ["info"]]
)
def test_help_fits_80_columns_and_explains_everything(run: Run, command: list[str]) -> None:
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for option in re.findall(r"^  (?:-\w, )?(--[\w-]+)", out, re.MULTILINE):
        text = out.split(option, 1)[1]
        assert re.match(r"[^\n]*(  |\n {8,})\w", text), option


@pytest.mark.parametrize("command", ["tasks", "methods", "info"])
def test_listings_fit_80_columns(run: Run, command: str) -> None:
    code, out, err = run(command)
    assert (code, err) == (0, "")
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    assert "``" not in out
    wanted = {
        "tasks": ["digits", "fashion-mnist"],
        "methods": ["gradual", "trigger", "climb", "L1(lam="],
        "info": ["torch"],
    }
    assert all(word in out for word in wanted[command])


def test_a_run_prints_its_report_and_no_progress_where_there_is_no_terminal(run: Run, tmp_path: Path) -> None:
    code, out, err = run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "clouds: the balance point" in out
    assert f"In {tmp_path}" in out.replace("\n", "")
    code, again, _ = run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path / "run")
    assert code == 0
    assert "finished before" in again
    page = json.loads((tmp_path / "run" / "report.json").read_text())["report"]
    assert page["command"] == f"isogrid optimize {TINY} --max-drop 2pt --out {tmp_path / 'run'}"


def test_quiet_is_one_line(run: Run, whole: Path) -> None:
    code, out, err = run("optimize", TINY, "--max-drop", "2pt", "--out", whole, "--quiet")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"(held|unresolved): [\d.]+ % sparse, \d+ bytes, (fp32|fp16|int8), \S+\n", out)


def test_inspect_as_json_is_json_and_counts_the_run(run: Run, whole: Path) -> None:
    code, out, err = run("inspect", whole, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    result = json.loads((whole / "result.json").read_text())["balance"]
    for name in ("sparsity", "sparsity_of_model", "nonzeros", "parameters"):
        assert found[name] == result[name]
        assert all(name in layer for layer in found["layers"] if name != "sparsity_of_model")


def test_inspect_as_a_table_fits_and_takes_names_as_they_are(run: Run, tmp_path: Path) -> None:
    import torch

    from isogrid.formats.safetensors import save_tensors

    name = "encoder.[bold]layers[/bold].11.attention.self.query_key_value.dense.weight"
    save_tensors(tmp_path / "a.safetensors", {name: torch.eye(4).numpy()})
    code, out, _ = run("inspect", tmp_path / "a.safetensors")
    assert code == 0
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    column = "".join(re.split("[│|]", line)[1].strip() for line in out.splitlines() if re.match("[│|]", line))
    assert name in column
    assert "75.00 %" in out


def test_compare_lays_finished_runs_side_by_side(run: Run, whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    code, shown, _ = run("compare", str(whole), str(other), "--html", str(tmp_path / "both.html"))
    assert code == 0
    assert "balance points" in shown
    assert "whole" in shown
    assert "other" in shown
    assert "Isogrid comparison" in (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "two run directories or more" in error_of(run("compare", str(whole)), 2)
    assert "no finished run" in error_of(run("compare", str(whole), str(tmp_path)), 2)


def test_sensitivity_shows_which_layers_bear_pruning(run: Run, whole: Path, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    code, shown, _ = run("sensitivity", TINY, "--model", whole, "--at", "0.5,0.9", "--max-drop", "5pt", "--html", page)
    assert code == 0
    assert "accuracy lost" in shown
    assert "bears" in shown
    assert "Which layers bear pruning" in page.read_text(encoding="utf-8")
    assert "is not pretrained; give --model" in error_of(run("sensitivity", TINY), 2)
    assert "missing; accepted for --model" in error_of(run("sensitivity", TINY, "--model", tmp_path), 2)
    assert "are rising" in error_of(run("sensitivity", TINY, "--model", whole, "--at", "0.9,0.5"), 2)
    # Before the model is looked for, let alone measured.
    assert "'much' is not understood" in error_of(run("sensitivity", TINY, "--max-drop", "much"), 2)


def test_check_looks_at_the_data_of_a_task(run: Run) -> None:
    code, shown, _ = run("check", TINY, "--samples", "50")
    assert code == 0
    assert re.search(r"finite\s+│ good", shown)
    code, shown, _ = run("check", TINY, "--samples", "50", "--json")
    assert {finding["check"] for finding in json.loads(shown)["findings"]} >= {"finite", "duplicates", "labels"}
    assert "has one setting only" in error_of(run("check", TINY, "--setting", "smoke"), 2)


def test_explain_tells_what_carries_a_run(run: Run, whole: Path) -> None:
    code, shown, _ = run("explain", whole, "--task", TINY)
    assert code == 0
    assert "what carries the sparse model of clouds" in shown
    assert "calibration error" in shown
    code, shown, _ = run("explain", whole, whole, "--task", TINY, "--json")
    assert code == 0
    assert json.loads(shown)["stability"][0]["overlap"] == 1
    assert "is not a ready one" in error_of(run("explain", whole), 2)
    assert "no finished run" in error_of(run("explain", whole / "nowhere"), 2)


def test_report_shows_a_finished_run_and_writes_its_page(run: Run, whole: Path, tmp_path: Path) -> None:
    code, out, err = run("report", whole, "--html", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert "clouds: the balance point" in out
    assert (tmp_path / "page.html").read_text().lower().startswith("<!doctype html>")


def test_options_reach_the_job(run: Run, tmp_path: Path) -> None:
    code, _, err = run(
        "optimize", TINY, "--floor", "50%", "--minimize", "nonzeros", "--method", "L1", "-o", "lam=0.001", "-o",
        "schedule=linear:0..0.5", "--epochs", "2", "--rung-epochs", "1", "--lr", "0.02", "--rung-lr", "0.03",
        "--ladder", "0.3,0.6", "--distill", "0", "--no-match-dense", "--until", "0.99", "--seed", "7", "--threads", "1",
        "--out", tmp_path,
    )  # fmt: skip
    assert (code, err) == (0, "")
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["floor"], config["floor_kind"], config["minimize"]) == ("50%", "absolute", "nonzeros")
    assert (config["seed"], config["match_dense"], config["until"]) == (7, False, 0.99)
    recipe = config["recipe"]
    assert (recipe["epochs"], recipe["rung_epochs"], recipe["lr"], recipe["rung_lr"]) == (2, 1, 0.02, 0.03)
    assert (recipe["ladder"], recipe["distill"]) == ([0.3, 0.6], 0.0)
    assert "L1(lam=0.001)" in config["method"]
    assert "Linear(begin=0.0, end=0.5)" in config["method"]


def test_tensorboard_logs_beside_a_new_run(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code, _, _ = run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path / "run", "--log", "tensorboard")
    assert code == 0
    assert list((tmp_path / "run" / "tensorboard").iterdir())


# -- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digit", "--max-drop", "1pt"], "Unknown task 'digit' (did you mean 'digits'?)"),
        (["no/such/file.py", "--max-drop", "1pt"], "There is no task file no/such/file.py"),
        ([TINY], "got neither; accepted is one of max_drop, such as '0.5pt' or '1%', and floor"),
        ([TINY, "--max-drop", "1pt", "--floor", "0.9"], "got max_drop='1pt' and floor='0.9'; accepted is one of"),
        ([TINY, "--max-drop", "1,5pt"], "The floor '1,5pt' is not understood"),
        ([TINY, "--max-drop", "-1pt"], "The floor '-1pt' is not understood"),
        ([TINY, "--floor", "good"], "The floor 'good' is not understood"),
        ([TINY, "--max-drop", "1pt", "--method", "gradul"], "Unknown method 'gradul' (did you mean 'gradual'?)"),
        (
            [TINY, "--max-drop", "1pt", "--method", "l1(lam=-3)"],
            "Unknown method 'l1(lam=-3)': accepted are acdc, alps,",
        ),
        ([TINY, "--max-drop", "1pt", "-o", "speed=3"], "Unknown gradual option 'speed'"),
        ([TINY, "--max-drop", "1pt", "-o", "lam"], "--option got 'lam'; accepted is NAME=VALUE"),
        ([TINY, "--max-drop", "1pt", "--method", "l1", "-o", "lam=x"], "Option lam of method 'l1' got 'x'"),
        ([TINY, "--max-drop", "1pt", "--method", "l1", "-o", "lam=-1"], "lam=-1"),
        ([TINY, "--max-drop", "1pt", "-o", "delta_t=0.5"], "Option delta_t of method 'gradual' got 0.5"),
        ([TINY, "--max-drop", "1pt", "-o", "pattern=2:5"], "0.weight does not fit the pattern"),
        ([TINY, "--max-drop", "1pt", "-o", "pattern=zigzag"], "Unknown pattern 'zigzag'"),
        ([TINY, "--max-drop", "1pt", "-o", "schedule=qubic"], "schedule 'qubic'"),
        ([TINY, "--max-drop", "1pt", "-o", "schedule=3"], "schedule of method 'gradual' got 3; accepted is a Schedule"),
        ([TINY, "--max-drop", "1pt", "--method", "static", "-o", "masks=3"], "Static got masks=3"),
        ([TINY, "--max-drop", "1pt", "--method", "keep"], "KeepZeros cannot be aimed at a sparsity"),
        (
            [TINY, "--max-drop", "1pt", "--method", "keep", "-o", "a=1"],
            "Method 'keep' got option 'a'; it has no options",
        ),
        (
            [TINY, "--max-drop", "1pt", "--minimize", "time"],
            "minimize got 'time'; accepted are 'bytes', 'nonzeros', 'latency'",
        ),
        ([TINY, "--max-drop", "1pt", "--ladder", "0.9,0.5"], "accepted are rising sparsities"),
        ([TINY, "--max-drop", "1pt", "--ladder", "0.9;0.5"], "--ladder got '0.9;0.5'"),
        ([TINY, "--max-drop", "1pt", "--ladder", ""], "--ladder got ''"),
        ([TINY, "--max-drop", "1pt", "--epochs", "0"], "epochs=0"),
        ([TINY, "--max-drop", "1pt", "--rung-epochs", "-2"], "rung_epochs=-2"),
        ([TINY, "--max-drop", "1pt", "--lr", "nan"], "lr=nan"),
        ([TINY, "--max-drop", "1pt", "--distill", "2"], "distill=2.0"),
        ([TINY, "--max-drop", "1pt", "--seed", "-1"], "seed=-1"),
        ([TINY, "--max-drop", "1pt", "--until", "nan"], "until=nan"),
        ([TINY, "--max-drop", "1pt", "--log", "wandb"], "--log got 'wandb'; accepted is tensorboard"),
    ],
)
def test_wrong_use_is_one_sentence_and_2(run: Run, arguments: list[Any], said: str, tmp_path: Path) -> None:
    assert said in error_of(run("optimize", *arguments, "--out", tmp_path / "run"), 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [["--bogus"], ["optimise"], ["optimize"], ["optimize", TINY, "--epochs", "x"],
                                       ["optimize", TINY, "--threads", "0"], ["inspect"], ["report", "a", "b"]],
)  # fmt: skip
def test_what_the_parser_refuses_is_2_too(run: Run, arguments: list[Any]) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("Usage: isogrid")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("body", "head", "code", "said"),
    [
        ("def loss(self, answer, batch): return answer.sum() * float('nan')", "", 1,
         "The loss became nan in dense, epoch 1"),
        ("ignore = ['.*']", "", 2, "No parameter of this Sequential can be pruned"),
        ("targets = ['encoder']", "", 2, "targets entry 'encoder' matches no weight"),
        ("def data(self, split): return torch.zeros(0, 12), torch.zeros(0).long()", "", 4,
         "training data of mine is empty"),
        ("def example(self): return (torch.zeros(2, 5),)", "", 2, "does not take its example inputs, (2, 5)"),
        ("def evaluate(self, model, split): return 'good'", "", 2, "evaluate returned 'good'"),
        ("def evaluate(self, model, split): return 1 / 0", "", 1, "ZeroDivisionError: division by zero (/"),
        ("def model(self):\n    m = super().model(); m[0].weight.data[0, 0] = float('inf'); return m", "", 1,
         "The numbers of 0.weight are not finite at the start"),
        ("def forward(self, model, batch): import no_such_thing", "", 1,
         "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("pass\n  pass", "", 2, "does not run (line 10): IndentationError"),
        ("", "import no_such_module", 2, "does not run (line 3): ModuleNotFoundError"),
        ("def data(self, split): raise OSError(28, 'No space left on device', '/data/x')", "", 1,
         "No space left on device"),
    ],
)  # fmt: skip
def test_a_task_that_goes_wrong_is_one_sentence(
    run: Run, body: str, head: str, code: int, said: str, tmp_path: Path
) -> None:
    path = task_file(tmp_path, body, head)
    message = error_of(run("optimize", path, "--max-drop", "2pt", "--out", tmp_path / "run"), code)
    assert said in message
    if "ZeroDivision" in said:
        assert f"{path}, line 9" in message


def test_a_floor_above_the_baseline_is_2_and_the_baseline_is_kept(run: Run, tmp_path: Path) -> None:
    message = error_of(run("optimize", TINY, "--floor", "99.9%", "--out", tmp_path / "run"), 2)
    assert "The floor 99.9% is out of reach: the dense baseline's accuracy is" in message
    assert (tmp_path / "run" / "checkpoints" / "dense-00.ckpt").is_file()


def test_a_floor_that_the_test_split_calls_broken_is_3_and_the_run_is_whole(run: Run, tmp_path: Path) -> None:
    body = (
        "def evaluate(self, model, split):\n"
        "    from isogrid import Outcomes\n"
        "    if split != 'test': return super().evaluate(model, split)\n"
        "    sparse = bool((model[0].weight == 0).float().mean() > 0.1)\n"
        "    return Outcomes([0.0] * 50 + [1.0] * 50 if sparse else [1.0] * 100)\n"
    )
    path = task_file(tmp_path, body)
    for _ in range(2):  # computed, then read back
        code, out, err = run("optimize", path, "--max-drop", "2pt", "--out", tmp_path / "run")
        assert code == 3
        assert "Error: The test split says that the floor 2pt is broken; the frontier is in" in err
        assert "broken" in out
    assert (tmp_path / "run" / "result.json").is_file()


def test_missing_data_is_4_and_names_package_and_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOGRID_FASHION_MNIST", str(tmp_path))
    message = error_of(run("optimize", "fashion-mnist", "--max-drop", "1pt", "--out", tmp_path / "run"), 4)
    assert "apt-get install dataset-fashion-mnist" in message


def test_a_missing_library_names_its_extra(run: Run, monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = error_of(run("inspect", whole / "model.onnx"), 2)
    assert "pip install 'isogrid[onnx]'" in message


def test_the_traceback_is_there_for_who_asks(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = task_file(tmp_path, "def evaluate(self, model, split): return 1 / 0")
    monkeypatch.setenv("ISOGRID_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run("optimize", path, "--max-drop", "2pt", "--out", tmp_path / "run")


# -- run directories -------------------------------------------------------------------------------------------------


def interrupted(folder: Path, after: int = 25) -> None:
    """A run of the tiny task that got as far as that many steps."""

    class Stop(Listener):
        steps = 0

        def step_taken(self, phase: str, share: float) -> None:
            self.steps += 1
            if self.steps == after:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(str(TINY), max_drop="2pt", out=folder, listener=Stop())


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_checkpoint_is_1_and_the_rest_is_kept(run: Run, tmp_path: Path, damage: str) -> None:
    interrupted(tmp_path)
    path = tmp_path / "checkpoints" / "dense-00.ckpt"
    whole = path.read_bytes()
    path.write_bytes(
        {"cut": whole[:-9], "flipped": whole[:-9] + b"x" + whole[-8:], "empty": b"", "foreign": b"PK\3\4"}[damage]
    )
    others = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    message = error_of(run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path), 1)
    assert f"The checkpoint {path} is damaged; remove that file to redo its phase" in message
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == others


def test_the_remedy_for_a_damaged_checkpoint_works(run: Run, tmp_path: Path, whole: Path) -> None:
    interrupted(tmp_path)
    (tmp_path / "checkpoints" / "dense-00.ckpt").unlink()
    code, _, _ = run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path)
    assert code == 0
    assert files_of(tmp_path) == files_of(whole)


def test_another_run_in_the_folder_is_1_until_forced(run: Run, tmp_path: Path, whole: Path) -> None:
    code, _, _ = run("optimize", TINY, "--max-drop", "3pt", "--out", tmp_path)
    assert code == 0
    before = files_of(tmp_path)
    message = error_of(run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path), 1)
    assert "holds a run with floor = '3pt', and this one has '2pt'" in message
    assert files_of(tmp_path) == before
    assert run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path, "--force")[0] == 0
    assert files_of(tmp_path) == files_of(whole)


def test_folders_that_cannot_be_written_are_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run", "/proc/isogrid"):
        assert "cannot be written" in error_of(run("optimize", TINY, "--max-drop", "2pt", "--out", out), 1)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o555)
    message = error_of(run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path / "run"), 1)
    assert "cannot be written (Permission denied)" in message


@pytest.mark.parametrize("command", ["report", "inspect"])
def test_unfinished_and_foreign_folders_are_no_runs(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    interrupted(tmp_path / "cut", after=3)
    for folder in ("empty", "cut"):
        result = run(command, tmp_path / folder)
        assert "is no finished run" in error_of(result, result[0])
        assert result[0] in (1, 2)
    for absent in ("absent", "absent.onnx", "absent.safetensors"):
        result = run(command, tmp_path / absent)
        assert str(tmp_path / absent) in error_of(result, result[0])
        assert result[0] in (1, 2)
    (tmp_path / "notes.txt").write_text("x")
    result = run(command, tmp_path / "notes.txt")
    error_of(result, 2)


@pytest.mark.parametrize(
    ("name", "contents"),
    [("report.json", b"{"), ("report.json", b"[]"), ("report.json", b"\xff\xfe"), ("model.safetensors", b"\0" * 20)],
)
def test_damaged_files_of_a_finished_run_are_1(
    run: Run, whole: Path, tmp_path: Path, name: str, contents: bytes
) -> None:
    for path in whole.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(contents)
    command = ["report"] if name == "report.json" else ["inspect"]
    error_of(run(*command, tmp_path), 1)
    error_of(run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path), 1)
    assert (tmp_path / name).read_bytes() == contents


def test_an_interrupt_is_130_and_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(isogrid.frontier.training._PhaseRun, "_one_step", interrupt)
    code, out, err = run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path)
    assert (code, out) == (130, "")
    assert err == "Stopped: Interrupted; the same command goes on from the last finished pass.\n"


# -- a real process --------------------------------------------------------------------------------------------------


def test_ctrl_c_in_training_is_130_and_the_run_goes_on_to_the_same_result(
    run: Run, tmp_path: Path, whole: Path
) -> None:
    """On a real terminal: the bars are drawn, and gone when the sentence is said."""
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "CI")}
    process = subprocess.Popen(
        [*CLI, "optimize", str(TINY), "--max-drop", "2pt", "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        env={**environment, "TERM": "xterm-256color"},
        # Where the tests run in the background of a shell, SIGINT is ignored, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no thread yet
    )
    os.close(terminal)
    drawn: list[bytes] = []

    def draw() -> None:
        with contextlib.suppress(OSError):  # the terminal is closed when the process ends
            while part := os.read(master, 65536):
                drawn.append(part)

    reader = threading.Thread(target=draw)
    reader.start()
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "checkpoints" / "dense-01.ckpt").exists():
            assert process.poll() is None, b"".join(drawn)
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        reader.join()
        os.close(master)
    screen = b"".join(drawn).decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    assert process.returncode == 130, text
    assert out == ""
    assert re.search(r"whole job, at most ━.* \d+/\d+ ", text)
    assert re.search(r"dense +━+.* \d/3 ", text)
    assert text.rstrip().endswith("Stopped: Interrupted; the same command goes on from the last finished pass.")
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list((tmp_path / "run").rglob(".*"))
    assert run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path / "run")[0] == 0
    assert files_of(tmp_path / "run") == files_of(whole)


def test_a_full_disk_is_1_and_the_run_goes_on_when_there_is_room(run: Run, tmp_path: Path, whole: Path) -> None:
    """A limit on the size of files is the full disk that needs no rights: the page of the report is over it."""
    process = subprocess.run(
        [*CLI, "optimize", str(TINY), "--max-drop", "2pt", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    assert error_of((process.returncode, process.stdout, process.stderr), 1).endswith(
        "its folder must exist, allow writing and have room."
    )
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list((tmp_path / "run").rglob(".*"))
    assert (tmp_path / "run" / "checkpoints" / "rung-01.ckpt").exists()
    assert run("optimize", TINY, "--max-drop", "2pt", "--out", tmp_path / "run")[0] == 0
    assert files_of(tmp_path / "run") == files_of(whole)


@pytest.mark.parametrize("arguments", [["methods"], ["--help"], ["info"]])
def test_a_closed_pipe_is_no_word(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([*CLI, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert process.stderr == ""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("argument", ["--version", "tasks"])
def test_output_that_finds_no_room_is_one_sentence(argument: str) -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.run([*CLI, argument], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = error_of((process.returncode, "", process.stderr), 1)
    assert said.strip() == "Error: The output cannot be written (No space left on device)."


def test_the_entry_point_is_installed() -> None:
    points = importlib.import_module("importlib.metadata").entry_points(group="console_scripts", name="isogrid")
    assert [point.value for point in points][:1] == ["isogrid.cli:main"]


def test_run_directories_are_what_the_command_line_says(whole: Path) -> None:
    assert RunDirectory(whole).finished


def test_names_in_brackets_are_no_markup(run: Run, tmp_path: Path) -> None:
    path = task_file(tmp_path, "def class_names(self): return ['dog[/b]', 'cat[i]']")
    out = tmp_path / "run[" / "b]"
    code, shown, err = run("optimize", path, "--max-drop", "50pt", "--epochs", "1", "--rung-epochs", "1", "--out", out)
    assert (code, err) == (0, "")
    assert "run[/b]: report.html" in shown.replace("\n", "")
    code, _, err = run("check", path)
    assert (code, err) == (0, "")
