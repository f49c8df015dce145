"""Every error that Isogrid raises on purpose.

Each message is one sentence that says what was wrong, what arrived and what is accepted.  ``exit_code`` is what the
command line returns when the error reaches it: 1 the run failed, 2 wrong usage, 3 the floor is not held, 4 data is
missing, 130 interrupted.
"""

from __future__ import annotations

from typing import ClassVar


class IsogridError(Exception):
    """The root of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(IsogridError, ValueError):
    """An argument or option that is not accepted."""

    exit_code: ClassVar[int] = 2


class PatternError(UsageError):
    """A sparsity pattern that does not fit the tensor, or scores it cannot rank."""


class TargetError(UsageError):
    """Names that match no parameter, or a parameter that cannot be pruned."""


class FloorError(UsageError):
    """An accuracy floor that is malformed, or that the dense baseline itself does not reach."""


class UnsupportedError(UsageError):
    """A combination that Isogrid knows and refuses (an optimiser, a wrapper, a layer)."""


class UndefinedMetricError(UsageError):
    """A metric that is no finite number, as a correlation is none where a model always answers the same."""


class MissingDependencyError(IsogridError, ImportError):
    """An optional library that the call needs and that is not installed."""

    exit_code: ClassVar[int] = 2


class SparsifierError(IsogridError):
    """A training loop that breaks the sparsifier's contract."""


class TrainingError(IsogridError):
    """Training that cannot go on: a loss or a weight that is not finite."""


class FormatError(IsogridError):
    """A file that is damaged, of another version, or not what it claims to be."""


class RunError(IsogridError):
    """A run directory that cannot be written, resumed or read."""


class DataError(IsogridError):
    """Data that a task needs and that is not on this machine, or is empty."""

    exit_code: ClassVar[int] = 4


class FloorNotHeldError(IsogridError):
    """The test split says that the accuracy floor is broken."""

    exit_code: ClassVar[int] = 3


def first_line(problem: BaseException) -> str:
    """What an exception of another library says, in one line and without a full stop: to be quoted in a sentence.

    >>> first_line(ValueError("no such axis."))
    'no such axis'
    """
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0].strip().rstrip(".")
