"""States of PyTorch in a run directory."""

from __future__ import annotations

from pathlib import Path

import torch

from isogrid.frontier.rundir import RunDirectory
from isogrid.frontier.tensor_states import load_state, save_state


def test_a_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.checkpoints.mkdir()
    state = {"model": {"w": torch.randn(3, 4)}, "masks": None, "metric": 0.5, "history": [{"loss": 1.0}]}
    save_state(run, "rung-01", state)
    found = load_state(run, "rung-01")
    assert found is not None
    assert torch.equal(found.pop("model")["w"], state.pop("model")["w"])  # type: ignore[index]
    assert found == state
    assert load_state(run, "rung-02") is None
