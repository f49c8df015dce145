"""Labels and units: which indices go together."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from isogrid.structure.labels import Labels, Plane, Units, compact


@given(pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_joining_makes_the_finest_partition_that_holds_every_pair(pairs: list[tuple[int, int]]) -> None:
    units = Units()
    labels = units.fresh(12)
    wanted = [{i} for i in range(12)]
    for a, b in pairs:
        units.join(labels[a], labels[b])
        if wanted[a] is not wanted[b]:
            wanted[a] |= wanted[b]
            for member in wanted[b]:
                wanted[member] = wanted[a]
    found = units.find(labels).tolist()
    assert found == [min(members) for members in wanted]


def test_joining_many_at_once_broadcasts() -> None:
    units = Units()
    table = units.fresh(6).reshape(2, 3)
    units.join_along(table, [0])
    assert units.find(table).tolist() == [[0, 1, 2], [0, 1, 2]]
    units.join(table[0], units.fresh(3))
    assert units.find(torch.arange(9)).tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]


def test_what_is_frozen_freezes_all_that_joins_it_and_keeps_its_reason() -> None:
    units = Units()
    a, b, c = units.fresh(3)
    units.freeze(c, "first")
    units.freeze(c, "second")
    assert units.frozen(torch.arange(3)).tolist() == [False, False, True]
    units.join(a, c)
    assert units.frozen(torch.arange(3)).tolist() == [True, False, True]
    assert units.reason(0) == "first"
    units.join(b, a)
    assert units.frozen(torch.arange(3)).all()


def test_compact_keeps_the_axes_that_vary() -> None:
    table = torch.arange(3).reshape(1, 3, 1).expand(4, 3, 5)
    assert compact(table).shape == (1, 3, 1)
    assert compact(torch.arange(6).reshape(2, 3)).shape == (2, 3)
    assert compact(torch.zeros(0, 3)).shape == (0, 1)


def test_moving_labels_moves_units_and_zeros_alike() -> None:
    plane = Plane(torch.arange(4).reshape(1, 4), ("w", 1))
    labels = Labels((2, 4), (plane,), torch.tensor([[False, True, False, False]]))
    moved = labels.map(lambda tensor: tensor.t(), (4, 2), keep_site=True)
    assert moved.planes[0].ids.flatten().tolist() == [0, 1, 2, 3]
    assert moved.planes[0].axes == (0,)
    assert moved.planes[0].site == ("w", 1)
    assert moved.zero is not None
    assert moved.zero.flatten().tolist() == [False, True, False, False]
    gone = labels.map(lambda tensor: tensor[:, :1], (2, 1))
    assert gone.planes == ()
    assert gone.zero is None
