"""What each tensor of a file is, so that counting in a file gives the numbers of the model it came from.

A name and a dtype say almost everything: floating point tensors are parameters, unless they are called like the
statistics of a batch norm, and those of two axes or more are targets (weights that may be pruned).  A file states the
exceptions only, in two metadata keys that hold JSON lists of names: ``isogrid.spared``, parameters of two axes or more
that are not targets (embeddings, depthwise kernels), and ``isogrid.buffers``, floating point tensors that are not
parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum

from isogrid.errors import FormatError

SPARED_KEY = "isogrid.spared"
BUFFERS_KEY = "isogrid.buffers"

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Role(Enum):
    """What a tensor is for: a weight that may be pruned, another parameter, or a buffer."""

    TARGET = "target"
    PARAMETER = "parameter"
    BUFFER = "buffer"


def usual_role(name: str, floating: bool, axes: int) -> Role:
    """The role of a tensor of which nothing but this is known.

    >>> usual_role("fc.weight", True, 2), usual_role("bn.running_mean", True, 1)
    (<Role.TARGET: 'target'>, <Role.BUFFER: 'buffer'>)
    """
    if not floating or name.rpartition(".")[2] in _STATISTICS:
        return Role.BUFFER
    return Role.TARGET if axes >= 2 else Role.PARAMETER


def role_metadata(roles: Mapping[str, tuple[Role, Role]]) -> dict[str, str]:
    """The metadata for tensors given as name to (usual role, true role); empty where all are usual.

    >>> role_metadata({"emb.weight": (Role.TARGET, Role.PARAMETER), "fc.weight": (Role.TARGET, Role.TARGET)})
    {'isogrid.spared': '["emb.weight"]'}
    """
    spared = sorted(n for n, (usual, true) in roles.items() if usual is Role.TARGET and true is Role.PARAMETER)
    buffers = sorted(n for n, (usual, true) in roles.items() if usual is not Role.BUFFER and true is Role.BUFFER)
    lists = {SPARED_KEY: spared, BUFFERS_KEY: buffers}
    return {key: json.dumps(names, separators=(",", ":"), ensure_ascii=False) for key, names in lists.items() if names}


def exceptional_roles(metadata: Mapping[str, str]) -> dict[str, Role]:
    """The roles that `metadata` states: inverse of `role_metadata`.

    Raises:
        FormatError: a list is malformed.

    >>> exceptional_roles({"isogrid.spared": '["emb.weight"]'})
    {'emb.weight': <Role.PARAMETER: 'parameter'>}
    """
    return {
        name: role
        for key, role in ((SPARED_KEY, Role.PARAMETER), (BUFFERS_KEY, Role.BUFFER))
        for name in _names(key, metadata.get(key, "[]"))
    }


def _names(key: str, text: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(f"The metadata entry {key} must be a JSON list of names, not {text[:100]!r}.")
    return names
