"""What the data of a task are worth: `isogrid check`."""

from isogrid.quality.checking import DataReport, check
from isogrid.quality.finding import Finding

__all__ = ["DataReport", "Finding", "check"]
