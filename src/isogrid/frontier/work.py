"""One run of the main job from its arguments to its result: what is the same for every framework."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isogrid import floor as floors
from isogrid.checks import check_whole
from isogrid.errors import MissingDependencyError, UsageError
from isogrid.floor import Floor
from isogrid.frontier.climb import Search, SearchPlan
from isogrid.frontier.events import Listener
from isogrid.frontier.points import Minimize
from isogrid.frontier.rundir import RunDirectory
from isogrid.frontier.workshop import Workshop
from isogrid.frontier.writing import Writer
from isogrid.report.data import ReportData
from isogrid.versions import versions


@dataclass(frozen=True)
class OptimizeResult:
    """What the main job found.

    Attributes:
        path: the run directory.
        report: all that the report shows: ``dense``, ``balance``, ``verdict``, ``points`` and more.
        model: the balance point's model, its weights rounded to its precision; a PyTorch model is in eval mode.
        resumed: whether the run had been finished before, so that nothing was computed now.
    """

    path: Path
    report: ReportData
    model: Any
    resumed: bool

    @property
    def verdict(self) -> str:
        """``"held"``, ``"broken"``, ``"unresolved"`` or ``"untested"``."""
        return self.report.verdict.state


def run_job(
    run: RunDirectory,
    config: Mapping[str, Any],
    plan: SearchPlan,
    minimize: Minimize,
    *,
    force: bool,
    check: Callable[[], None],
    workshop: Callable[[], Workshop],
    read: Callable[[Path], Any],
    listener: Listener,
    about: Mapping[str, Any],
) -> OptimizeResult:
    """Search, confirm, write; or read what an earlier run of the same kind has left.

    Args:
        run: the directory.
        config: all that tells this run from another.
        plan, minimize: what is looked for.
        force: remove another run that is there.
        check: raises whatever can be known to be wrong before anything is removed or trained.
        workshop: makes the workshop, once the directory is this run's.
        read: gives the balance point's model out of a finished run's directory.
        listener: hears of the progress.
        about: of the report, ``title``, ``task``, ``command``, and ``versions`` beyond the usual ones.

    Raises:
        IsogridError: one of its kinds.
    """
    if force or not run.finished:
        check()
    with run.opened(config, force=force) as finished:
        if finished:
            report = ReportData.from_json(json.dumps(run.read_json("report.json")))
            return OptimizeResult(run.path, report, read(run.path), True)
        started = time.monotonic()
        bench = workshop()
        search = Search(bench, plan, listener)
        found = search.baseline()
        writer = Writer(run, bench, plan.floor, minimize)
        writer.write_frontier(found)
        search.climb(found, measured=lambda: writer.write_frontier(found))
        facts = {
            "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "seed": config["seed"],
            **about,
            "versions": {**versions(), **about.get("versions", {})},
        }
        report, balanced = writer.finish(found, facts, started)
    return OptimizeResult(run.path, report, balanced, False)


def configuration(plan: SearchPlan, recipe: Any, minimize: Minimize, seed: int, **of_task: Any) -> dict[str, Any]:
    """What ``config.json`` holds, and a resumed run is compared by: this package's release, the task, the search."""
    return {
        "isogrid": importlib.metadata.version("isogrid"),
        **of_task,
        "method": repr(plan.method),
        "floor": plan.floor.text,
        "floor_kind": plan.floor.kind,
        "minimize": minimize,
        "recipe": dataclasses.asdict(recipe),
        "match_dense": plan.match_dense,
        "until": plan.until,
        "seed": seed,
    }


def choose_floor(drop: str | float | None, absolute: str | float | None) -> Floor:
    """The floor, of the two ways in which it may be given.

    Raises:
        UsageError: both or neither are given.
        FloorError: it is not understood.
    """
    if (drop is None) == (absolute is None):
        arrived = "neither" if drop is None else f"max_drop={drop!r} and floor={absolute!r}"
        raise UsageError(
            f"optimize() got {arrived}; accepted is one of max_drop, such as '0.5pt' or '1%', and floor, such as 0.95."
        )
    return floors.max_drop(drop) if drop is not None else floors.absolute(absolute)  # type: ignore[arg-type]


def check_numbers(seed: int, until: float | None) -> None:
    """Raise ``UsageError`` for a seed or a threshold that is none."""
    check_whole("optimize()", "seed", seed, least=0)
    if seed >= 2**63:
        raise UsageError(f"optimize() got seed={seed}; accepted is a whole number below 2**63.")
    if until is not None and not (isinstance(until, float | int) and math.isfinite(until)):
        raise UsageError(f"optimize() got until={until!r}; accepted is a finite number, or None.")


def check_libraries(libraries: Iterable[str]) -> None:
    """Raise ``MissingDependencyError`` if a library is missing that the ONNX file at the end needs."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise MissingDependencyError(
                f"optimize() writes an ONNX file at its end, which needs {library}; install it with: pip install "
                "'isogrid[onnx]'."
            )
