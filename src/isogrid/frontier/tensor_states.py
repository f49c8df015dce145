"""PyTorch's states as checkpoints of a run directory."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch

from isogrid.frontier.rundir import RunDirectory


def save_state(run: RunDirectory, name: str, state: Mapping[str, Any]) -> None:
    """Write tensors and plain numbers, in dicts and lists, as a checkpoint."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    run.save_checkpoint(name, buffer.getvalue())


def load_state(run: RunDirectory, name: str) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU, or None where there is no such checkpoint.

    Raises:
        RunError: the checkpoint is damaged.
    """
    payload = run.load_checkpoint(name)
    if payload is None:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state
