"""The main job: a dense baseline, the climb, the frontier of both levers, the balance point and its proof."""

from isogrid.frontier.events import EpochEnd, Listener
from isogrid.frontier.job import OptimizeResult, optimize
from isogrid.frontier.loop_task import LoopTask

__all__ = ["EpochEnd", "Listener", "LoopTask", "OptimizeResult", "optimize"]
