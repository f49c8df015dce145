"""Tasks by name and from files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from isogrid.errors import DataError, UsageError
from isogrid.tasks import Recipe, Task, load_task, ready_tasks
from isogrid.tasks.fashion_mnist import FashionMNIST

WHOLE = """
from torch import nn
from isogrid import Task

class Mine(Task):
    name, summary = "mine", "a task"
    def model(self): return nn.Linear(2, 2)
    def batches(self): return []
    def evaluate(self, model, split): return 0.5
    def example(self): return ()
"""


@pytest.fixture(autouse=True)
def unchanged_paths() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_ready_tasks_have_names_and_summaries() -> None:
    for name, cls in ready_tasks().items():
        task = load_task(name)
        assert type(task) is cls
        assert task.name == name
        assert len(task.summary) > 10


class Two(FashionMNIST):
    settings: ClassVar = {"smoke": Recipe(epochs=1), "full": Recipe(epochs=9)}


def test_a_setting_gives_a_task_with_its_recipe_and_leaves_the_other() -> None:
    task = Two()
    smoke = task.at("Smoke")
    assert (smoke.setting, smoke.recipe.epochs) == ("smoke", 1)
    assert (task.setting, task.recipe) == (None, Two.recipe)
    assert smoke.at("full").recipe.epochs == 9


def test_an_unknown_setting_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        UsageError, match=r"Unknown setting of fashion-mnist 'smok' \(did you mean 'smoke'\?\): .* full"
    ):
        Two().at("smok")
    with pytest.raises(UsageError, match="digits got setting='fast', and it has one setting only"):
        load_task("digits").at("fast")


@pytest.mark.parametrize(
    ("text", "near"), [("digit", "digits"), ("fashion_mnist", "fashion-mnist"), ("Digits", "digits")]
)
def test_an_unknown_name_is_answered_with_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"Unknown task '{text}' \\(did you mean '{near}'\\?\\)"):
        load_task(text)


def test_a_file_with_one_task(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, WHOLE))
    assert isinstance(task, Task)
    assert task.name == "mine"


def test_a_variable_called_task_is_taken_before_classes(tmp_path: Path) -> None:
    text = WHOLE + "class Other(Mine):\n    name = 'other'\ntask = Other()\n"
    assert load_task(write(tmp_path, text)).name == "other"


def test_an_imported_task_class_is_not_the_files_own(tmp_path: Path) -> None:
    assert load_task(write(tmp_path, "from isogrid.tasks.digits import Digits\n" + WHOLE)).name == "mine"


def test_what_lies_beside_the_file_can_be_imported_then_and_later(tmp_path: Path) -> None:
    write(tmp_path, "from torch import nn\nNET = nn.Linear(2, 2)\n", "my_network_beside.py")
    text = WHOLE.replace("return nn.Linear(2, 2)", "from my_network_beside import NET; return NET")
    assert load_task(write(tmp_path, text)).model() is not None


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, WHOLE)
    monkeypatch.chdir(tmp_path)
    assert load_task("mine.py").name == "mine"
    assert load_task("./mine.py").name == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "must define exactly one Task subclass, or a variable task; found: none"),
        (WHOLE + "class Other(Mine): pass\n", "found: Mine, Other"),
        (WHOLE.replace("def example", "def sample"), "class Mine lacks what a task must define: example"),
        (
            WHOLE.replace('name, summary = "mine", "a task"', "summary = ''"),
            "class Mine needs a text as its attribute name",
        ),
        ("def broken(:\n    pass\n", "does not run (line 1): SyntaxError: invalid syntax"),
        ("x = 1\n\ny = 1 / 0\n", "does not run (line 3): ZeroDivisionError: division by zero"),
        ("def f():\n    raise RuntimeError('no')\n\nf()\n", "does not run (line 2): RuntimeError: no"),
        ("import sys\nsys.exit(3)\n", "does not run (line 2): SystemExit: 3"),
        ("import no_such_module_here\n", "does not run (line 1): ModuleNotFoundError: No module named"),
        (WHOLE + "    def __init__(self): raise ValueError('odd')\n", "does not run (line 11): ValueError: odd"),
        ("x = 'ä'\n", None),
    ],
)
def test_a_file_that_does_not_serve_is_one_sentence_with_its_line(tmp_path: Path, text: str, said: str | None) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as problem:
        load_task(path)
    message = str(problem.value)
    assert (said or "found: none") in message
    assert message.startswith(path)
    assert "\n" not in message


def test_a_relative_path_keeps_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "x = 1\ny = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"mine\.py does not run \(line 2\)"):
        load_task("mine.py")


def test_errors_of_the_package_pass_through(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="epochs=0"):
        load_task(write(tmp_path, "from isogrid import Recipe\nRecipe(epochs=0)\n"))


@pytest.mark.parametrize("text", ["absent.py", "some/where", "./digits"])
def test_a_missing_file_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="There is no task file"):
        load_task(text)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no Python file; a task file ends in \.py"):
        load_task(write(tmp_path, WHOLE, "mine.txt"))


def test_absent_fashion_mnist_names_package_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOGRID_FASHION_MNIST", os.fspath(tmp_path))
    with pytest.raises(DataError, match=r"apt-get install dataset-fashion-mnist.* ISOGRID_FASHION_MNIST"):
        load_task("fashion-mnist").example()
