"""What methods aim at, with names looked up."""

from __future__ import annotations

import pytest

from isogrid.errors import UsageError
from isogrid.rules.aim import resolve_aim


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "unstructured", "global"), r"^M needs a sparsity"),
        ((0.6, "2:4", "global"), r"^M got sparsity=0\.6, and pattern 2:4 allows 0\.5 at most\.$"),
        ((1.0, "unstructured", "global"), r"^M got sparsity=1\.0; accepted is a number from 0"),
        ((0.5, 3, "global"), r"^M got pattern=3 and allocation=Global\(\); accepted are a Pattern and an Allocation"),
    ],
)
def test_an_aim_that_makes_no_sense_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_aim("M", *arguments)  # type: ignore[arg-type]
