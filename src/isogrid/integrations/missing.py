"""What is said when the library of an integration is not installed."""

from __future__ import annotations

from isogrid.errors import MissingDependencyError


def missing(problem: ModuleNotFoundError, library: str, *, extra: str) -> ImportError:
    """The error to raise instead of `problem`, which importing `library` gave; `problem` itself if it is of another.

    >>> missing(ModuleNotFoundError(name="peft.tuners"), "peft", extra="peft")
    MissingDependencyError("isogrid.integrations.peft needs peft, which is not installed; install it with: ...")
    >>> missing(ModuleNotFoundError("No module named 'psutil'", name="psutil"), "peft", extra="peft")
    ModuleNotFoundError("No module named 'psutil'")
    """
    if (problem.name or "").partition(".")[0] != library:
        return problem
    return MissingDependencyError(
        f"isogrid.integrations.{library} needs {library}, which is not installed; "
        f"install it with: pip install 'isogrid[{extra}]'."
    )
