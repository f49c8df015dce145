"""Ready tasks on real data, and how a task of your own is found."""

from isogrid.ladder import LADDER
from isogrid.tasks.registry import load_task, ready_tasks
from isogrid.tasks.task import ClassificationTask, Recipe, ShuffledBatches, Split, Task

__all__ = ["LADDER", "ClassificationTask", "Recipe", "ShuffledBatches", "Split", "Task", "load_task", "ready_tasks"]
