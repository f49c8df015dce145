"""Data-parallel trainings by each trainer: two processes, each with its own data, and one set of masks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from conformance.training import assert_same_bits

DRIVER = Path(__file__).with_name("ranks_driver.py")
NAMES = ("gradual", "revival", "subgradient")
CASES = [*(f"{trainer}/{name}" for trainer in ("accelerate", "lightning", "transformers") for name in NAMES)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="PyTorch was built without gloo"),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes end with."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in ("0", "1"):
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "TORCH_SHOW_CPP_STACKTRACES": "0", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "NODE_RANK": "0",
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, str(DRIVER), str(folder)],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    try:
        said = [process.communicate(timeout=250)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", [*CASES, "lightning/accumulating"])
def test_all_ranks_hold_the_same(ranks: list[dict[str, Any]], case: str) -> None:
    one, other = (rank[case] for rank in ranks)
    for part in ("masks", "weights"):
        assert_same_bits(one[part], other[part])
    for layer in one["buffers"]:
        assert_same_bits(one["buffers"][layer], other["buffers"][layer])
    assert one["numbers"] == other["numbers"]
    assert one["sparsity"] == other["sparsity"] >= 0.49


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_has_the_same_masks(ranks: list[dict[str, Any]], name: str) -> None:
    for rank in ranks:
        assert_same_bits(rank[f"transformers/{name}"]["resumed"], rank[f"transformers/{name}"]["masks"])


@pytest.mark.parametrize("name", NAMES)
def test_the_callback_trains_as_the_three_lines_do(ranks: list[dict[str, Any]], name: str) -> None:
    """With the penalty written by hand under DistributedDataParallel, and with it in the loss."""
    by_callback, by_hand = ranks[0][f"lightning/{name}"], ranks[0][f"accelerate/{name}"]
    for key, weight in by_hand["weights"].items():
        torch.testing.assert_close(by_callback["weights"][f"body.{key}"], weight, rtol=1e-4, atol=1e-6)


def test_sharded_models_are_refused(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["refused"].keys() == {"fsdp1", "fsdp2"}
        assert "no rank sees a whole mask; use DistributedDataParallel" in rank["refused"]["fsdp1"]
        assert "is sharded (DTensor); only whole, unsharded weights can be pruned" in rank["refused"]["fsdp2"]
