"""The cost model: what must hold whatever its constants are."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogrid.runtime.cost import MARGIN, Work, gain, nanoseconds

SIZES = st.integers(1, 4096)


@given(
    rows=SIZES, columns=SIZES, positions=st.integers(1, 5000), inputs=SIZES, shares=st.tuples(*[st.floats(0, 1)] * 2)
)
def test_more_zeros_never_gain_less(
    rows: int, columns: int, positions: int, inputs: int, shares: tuple[float, float]
) -> None:
    fewer, more = (int(share * rows * columns) for share in sorted(shares))
    work = Work(rows, columns, fewer, positions, inputs)
    assert gain(work) >= gain(replace(work, nonzeros=more)) > 0


@pytest.mark.parametrize("positions", [1, 2, 7, 8, 128, 12544])
def test_large_layers_pay_at_90_percent_and_not_without_zeros(positions: int) -> None:
    work = Work(1024, 1024, 1024 * 1024 // 10, positions, 1024 * positions)
    assert gain(work) > 2
    assert gain(replace(work, nonzeros=1024 * 1024)) < MARGIN


def test_a_few_samples_cost_less_than_each_of_them_alone() -> None:
    one = nanoseconds(Work(1024, 1024, 1024 * 1024 // 10, 1, 1024))[1]
    costs = [nanoseconds(Work(1024, 1024, 1024 * 1024 // 10, n, 1024 * n))[1] for n in (2, 3, 4, 5, 7, 8, 9)]
    assert costs == sorted(costs)
    assert one < costs[0] < 1.5 * one
    assert costs[2] < 2 * one


@pytest.mark.parametrize("positions", [128, 12544])
def test_the_last_nonzeros_still_count(positions: int) -> None:
    # With few of them blocks are larger, so that rows do not cost as much as the nonzeros in them.
    work = Work(3072, 768, 3072 * 768 // 20, positions, 768 * positions)
    assert gain(replace(work, nonzeros=work.nonzeros // 5)) > 2.5 * gain(work)


def test_small_layers_do_not_pay() -> None:
    assert gain(Work(8, 8, 6, 1, 8)) < MARGIN


def test_macs_are_the_dense_layers() -> None:
    assert Work(3, 5, 1, 7, 35).macs == 3 * 5 * 7


def test_it_has_no_clock() -> None:
    # And no framework: the same numbers wherever it is asked.
    code = "from isogrid.runtime import cost; import sys; print(cost.gain(cost.Work(512, 512, 9999, 64, 32768)).hex())"
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert outputs == {f"{gain(Work(512, 512, 9999, 64, 32768)).hex()}\n".encode()}
