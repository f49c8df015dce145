"""Where data that take long to make are kept for the next run."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder for this user: ``ISOGRID_CACHE``, else ``isogrid`` in ``XDG_CACHE_HOME``, else ``~/.cache/isogrid``.

    It may not exist yet.  Whatever is in it can be made again: deleting it costs time only.

    >>> os.environ["ISOGRID_CACHE"] = "/tmp/kept"                                    # doctest: +SKIP
    >>> cache_folder()                                                               # doctest: +SKIP
    PosixPath('/tmp/kept')
    """
    named = os.environ.get("ISOGRID_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isogrid"
