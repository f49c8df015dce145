"""The ready tasks by name, and tasks from a user's own file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from isogrid.errors import IsogridError, UsageError
from isogrid.names import unknown_name
from isogrid.tasks.digits import Digits
from isogrid.tasks.fashion_mnist import FashionMNIST, FashionMNISTConv
from isogrid.tasks.images import Images
from isogrid.tasks.language import Language
from isogrid.tasks.language_minilm import LanguageMiniLM
from isogrid.tasks.recommendation import Recommendation
from isogrid.tasks.speech import Speech, SpeechGRU
from isogrid.tasks.task import Task, check_task

_READY: tuple[type[Task], ...] = (
    Digits,
    FashionMNIST,
    FashionMNISTConv,
    Images,
    Language,
    LanguageMiniLM,
    Recommendation,
    Speech,
    SpeechGRU,
)


def ready_tasks() -> dict[str, type[Task]]:
    """The ready tasks by name.

    >>> "digits" in ready_tasks()
    True
    """
    return {task.name: task for task in _READY}


def load_task(text: str) -> Task:
    """The task called `text`: a ready task's name, or the path of a Python file.

    The file holds one `Task` subclass of its own, or a variable ``task``.

    Raises:
        UsageError: no such name or file, a file that does not run, or one without exactly one task.

    >>> load_task("digits").metric.name
    'accuracy'
    """
    ready = ready_tasks()
    if text in ready:
        return ready[text]()
    if text.endswith(".py") or "/" in text:
        return _from_file(Path(text))
    raise unknown_name("task", text, [*ready, "path/to/task.py"])


def _from_file(path: Path) -> Task:
    if not path.is_file():
        raise UsageError(f"There is no task file {path}; accepted is a ready task's name or the path of a Python file.")
    full = path.resolve()
    name = f"isogrid_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file; a task file ends in .py.")
    module = importlib.util.module_from_spec(spec)
    # Registered, so that what the file defines can be pickled by data loaders' workers.
    sys.modules[name] = module
    # As for a script: what lies beside the file can be imported, then and while the task is used.
    if str(full.parent) not in sys.path:
        sys.path.insert(0, str(full.parent))
    try:
        spec.loader.exec_module(module)
        return _checked(_task_in(module, path), path)
    except IsogridError:
        raise
    except (Exception, SystemExit) as problem:
        said = problem.msg if isinstance(problem, SyntaxError) else problem
        raise UsageError(
            f"{path} does not run{_line_in(full, problem)}: {type(problem).__name__}: {said}."
        ) from problem


def _task_in(module: ModuleType, path: Path) -> Task:
    named = getattr(module, "task", None)
    if isinstance(named, Task):
        return named
    own = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Task) and cls.__module__ == module.__name__
    ]
    whole = [cls for cls in own if not inspect.isabstract(cls)]
    if len(own) == 1 and not whole:
        lacking = ", ".join(sorted(own[0].__abstractmethods__))
        raise UsageError(f"{path}: class {own[0].__name__} lacks what a task must define: {lacking}.")
    if len(whole) != 1:
        found = ", ".join(cls.__name__ for cls in whole) or "none"
        raise UsageError(f"{path} must define exactly one Task subclass, or a variable task; found: {found}.")
    return whole[0]()


def _checked(task: Task, path: Path) -> Task:
    """What reports and file names need of a task, and Python does not ask for."""
    try:
        check_task(task)
    except UsageError as problem:
        raise UsageError(f"{path}: {problem}") from None
    return task


def _line_in(path: Path, problem: BaseException) -> str:
    """Where in the user's file it happened."""
    line = problem.lineno if isinstance(problem, SyntaxError) else None
    trace = problem.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""
