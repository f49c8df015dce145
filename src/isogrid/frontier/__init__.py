"""The main job: a dense baseline, the climb, the frontier of both levers, the balance point and its proof.

The search and what it writes know no framework: a `Workshop` trains, prunes, measures and saves for them.  Names are
loaded when they are first used, so that one framework's workshop needs no other framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isogrid.frontier.events import EpochEnd, Listener
    from isogrid.frontier.job import optimize
    from isogrid.frontier.loop_task import LoopTask
    from isogrid.frontier.work import OptimizeResult

_PLACES = {
    "EpochEnd": "events", "Listener": "events", "LoopTask": "loop_task", "OptimizeResult": "work", "optimize": "job",
}  # fmt: skip

__all__ = ["EpochEnd", "Listener", "LoopTask", "OptimizeResult", "optimize"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
