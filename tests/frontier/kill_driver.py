"""Kills runs of the tiny task at many places and resumes each: one process that imports torch once, and forks.

``python kill_driver.py FOLDER PLACES`` prints a JSON line for each place: where it was, and how both starts ended.
FOLDER/whole holds the run that nobody disturbed, FOLDER/KIND/NUMBER the others.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import isogrid.formats.files
import isogrid.frontier.writing
from isogrid.formats.files import write_atomically
from isogrid.formats.onnx import export
from isogrid.frontier import optimize


def copied(source: Path, target: Path, *_: Any) -> int:
    """Stands in for packing, which every child would have to load libraries for: a file is written all the same."""
    write_atomically(target, source.read_bytes())
    return target.stat().st_size


TASK = Path(__file__).with_name("tiny_task.py")


class Counter:
    """Counts what happens, and kills this process, without any chance to clean up, when the number is reached."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at, self.seen = kill_at, 0

    def __call__(self, before: Callable[[], None] = lambda: None) -> None:
        if self.seen == self.kill_at:
            before()
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1


def count_steps(counter: Counter) -> None:
    """An event is an optimiser step that is about to be taken: gradients are there, weights have not moved."""
    step = torch.optim.Adam.step

    def counted(self: torch.optim.Adam, *arguments: Any, **options: Any) -> Any:
        counter()
        return step(self, *arguments, **options)

    torch.optim.Adam.step = counted  # type: ignore[method-assign]


def count_writes(counter: Counter) -> None:
    """An event is each call that a file's way to the disk is made of; a kill before the bytes are safe halves them."""

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fsync(self, handle: int) -> None:
            counter(lambda: self._halve(handle))
            os.fsync(handle)

        def replace(self, source: Any, target: Any) -> None:
            counter()
            os.replace(source, target)  # noqa: PTH105 - what is watched

        @staticmethod
        def _halve(handle: int) -> None:
            with contextlib.suppress(OSError):  # a folder
                os.ftruncate(handle, os.fstat(handle).st_size // 2)

    isogrid.formats.files.os = Watched()  # type: ignore[assignment]


def count_calls_at_the_end(counter: Counter) -> None:
    """An event is any call of a Python function while the models are written, exported, run and reported."""
    finish = isogrid.frontier.writing.Writer.finish

    def watch(_: FrameType, event: str, __: Any) -> None:
        if event == "call":
            counter()

    def watched(self: Any, *arguments: Any) -> Any:
        sys.setprofile(watch)
        try:
            return finish(self, *arguments)
        finally:
            sys.setprofile(None)

    isogrid.frontier.writing.Writer.finish = watched  # type: ignore[method-assign]


KINDS = {"training": count_steps, "write": count_writes, "export": count_calls_at_the_end}


def run(folder: Path, kind: str | None, kill_at: int | None = None) -> tuple[int, int]:
    """Run the job in a child of this process; how it ended (negative: by that signal) and how many events it saw."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        counter = Counter(kill_at)
        if kind is not None:
            KINDS[kind](counter)
        # The page has tests of its own and takes longer than all the rest.
        isogrid.frontier.writing.write_html = lambda _, path: write_atomically(path, b"<html></html>")
        try:
            optimize(str(TASK), max_drop="2pt", out=folder)
        except BaseException as problem:
            print(f"{type(problem).__name__}: {problem}", file=sys.stderr, flush=True)
            os._exit(1)
        os.write(writer, str(counter.seen).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        seen = answer.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(seen or 0)


def warm_up() -> None:
    """Load here, once, what every child needs for its export; nothing of it starts a thread."""
    with contextlib.suppress(ImportError):
        # Where it is installed, writing an ONNX file shows a progress bar, which a thread would watch.
        importlib.import_module("tqdm").tqdm.monitor_interval = 0
    # Not when this file is imported, which collecting doctests does.
    isogrid.frontier.writing.write_packed = copied
    isogrid.frontier.writing.measure_speed = lambda *_: None  # writes nothing, and takes its time
    with tempfile.TemporaryDirectory() as folder:
        export(torch.nn.Linear(2, 2), f"{folder}/model.onnx", torch.zeros(1, 2))
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a process with threads must not fork"


def main(folder: Path, places: int) -> None:
    """Kill each kind at `places` places, from the first event to (nearly) the last."""
    warm_up()
    run(folder / "whole", None)
    for kind in KINDS:
        _, events = run(folder / kind / "counted", kind)
        # How often Python calls its functions differs a little from run to run.
        last = int(0.99 * events) if kind == "export" else events - 1
        for place in range(places):
            target = folder / kind / str(place)
            kill_at = place * last // max(1, places - 1)
            killed, _ = run(target, kind, kill_at)
            left = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
            resumed, _ = run(target, None)
            line = {"kind": kind, "place": place, "event": kill_at, "killed": killed, "left": left, "resumed": resumed}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
