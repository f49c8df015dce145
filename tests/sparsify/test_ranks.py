"""Data-parallel training: two processes, each with its own data, and one set of masks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from conformance.methods import WEIGHTS
from conformance.training import assert_same_bits
from isogrid.sparsify.ranks import Ranks

DRIVER = Path(__file__).with_name("ranks_driver.py")
CASES = {
    "gradual": 0.8, "gradient": 0.8, "static": 0.8, "trigger": 0.6, "revival": 0.6, "aware": 0.8, "l1": None,
    "subgradient": 0.5, "quarrelsome": None, "compiled": 0.8, "unused": 0.6, "set": 0.8, "rigl": 0.8, "acdc": 0.8,
    "imp": 0.8, "topkast": 0.8, "movement": 0.8, "soft_movement": 0.8, "str": 0.6, "l0": 0.6, "l0_rows": None,
    "snip": 0.7,
}  # fmt: skip

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="PyTorch was built without gloo")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes end with."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_SHOW_CPP_STACKTRACES": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(DRIVER), str(rank), "2", str(folder)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_hold_the_same(ranks: list[dict[str, Any]], name: str) -> None:
    one, other = (rank[name] for rank in ranks)
    assert_same_bits(one["masks"], other["masks"])
    assert_same_bits(one["weights"], other["weights"])
    assert one["numbers"] == other["numbers"]
    assert one["done"] == other["done"]
    assert len(one["moments"]) == len(other["moments"]) == 4
    assert all(torch.equal(a, b) for a, b in zip(one["moments"], other["moments"], strict=True))
    assert one["buffers"][-1].keys() == other["buffers"][-1].keys()
    for layer in one["buffers"][-1]:
        assert_same_bits(one["buffers"][-1][layer], other["buffers"][-1][layer])


@pytest.mark.parametrize(("name", "sparsity"), [(n, s) for n, s in CASES.items() if s is not None])
def test_the_sparsity_is_reached(ranks: list[dict[str, Any]], name: str, sparsity: float) -> None:
    assert ranks[0][name]["done"]["sparsity"] == pytest.approx(sparsity, abs=3 / WEIGHTS)


def test_gradients_at_pruned_places_are_the_mean_over_ranks(ranks: list[dict[str, Any]]) -> None:
    moved = 0
    for one, other in zip(ranks[0]["revival"]["buffers"], ranks[1]["revival"]["buffers"], strict=True):
        for layer in one:
            assert torch.equal(one[layer]["average"], other[layer]["average"])
            moved += 1
    assert moved == 48


def test_gradients_that_say_where_to_grow_are_the_mean_over_ranks(ranks: list[dict[str, Any]]) -> None:
    gathered = 0
    for one, other in zip(ranks[0]["rigl"]["buffers"], ranks[1]["rigl"]["buffers"], strict=True):
        for layer in one:
            assert one[layer].keys() == other[layer].keys()
            assert_same_bits(one[layer], other[layer])
            gathered += len(one[layer])
    assert gathered == 2 * 2 * 4


def test_what_one_rank_measures_counts_for_all(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["aware"]["numbers"]["broken"] == 0.0
        assert rank["aware"]["numbers"]["clock"] == pytest.approx(0.75)


def test_a_compiled_wrapper_is_seen_through(ranks: list[dict[str, Any]]) -> None:
    assert_same_bits(ranks[0]["compiled"]["masks"], ranks[0]["gradual"]["masks"])


def test_sharded_models_are_refused(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        said = rank["refused"]
        assert said.keys() == {"fsdp", "fsdp_inside", "fully_shard"}
        for name in ("fsdp", "fsdp_inside"):
            assert "no rank sees a whole mask; use DistributedDataParallel or a plain module" in said[name]
        assert "0.weight is sharded (DTensor); only whole, unsharded weights can be pruned" in said["fully_shard"]


def test_one_process_is_alone() -> None:
    assert Ranks(nn.Linear(2, 2)).alone
    tensor = torch.ones(3)
    assert Ranks(nn.Linear(2, 2)).mean_(tensor) is tensor
