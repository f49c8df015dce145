"""`isogrid sensitivity`: what it refuses before it loads anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("torch")

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("option", ["sparsity=0.3", " sparsity = 0.3"])
def test_a_sparsity_among_the_options_is_refused_for_that_of_at(call: Call, option: str) -> None:
    code, out, err = call("sensitivity", "nowhere.py", "-o", "score=magnitude", "-o", option)
    assert (code, out) == (2, "")
    assert err == f"Error: --option got {option!r}; accepted for sparsities is --at, such as --at 0.5,0.9.\n"
