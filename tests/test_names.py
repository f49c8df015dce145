"""Things called by name."""

from __future__ import annotations

import pytest

from isogrid.errors import UsageError
from isogrid.names import canonical, unknown_name


@pytest.mark.parametrize("text", ["fan_in", "Fan-In", " FAN_IN\n"])
def test_spellings_of_one_name(text: str) -> None:
    assert canonical(text) == "fan_in"


def test_the_nearest_name_is_suggested() -> None:
    error = unknown_name("score", "Magnitud", ["gradient", "magnitude"])
    assert isinstance(error, UsageError)
    assert str(error) == "Unknown score 'Magnitud' (did you mean 'magnitude'?): accepted are gradient, magnitude."


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert str(unknown_name("score", "xyz", ["gradient"])) == "Unknown score 'xyz': accepted are gradient."
