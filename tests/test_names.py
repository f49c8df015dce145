"""Things called by name."""

from __future__ import annotations

import pytest

from isogrid.errors import UsageError
from isogrid.names import canonical, register, unknown_name


@pytest.mark.parametrize("text", ["fan_in", "Fan-In", " FAN_IN\n"])
def test_spellings_of_one_name(text: str) -> None:
    assert canonical(text) == "fan_in"


def test_the_nearest_name_is_suggested() -> None:
    error = unknown_name("score", "Magnitud", ["gradient", "magnitude"])
    assert isinstance(error, UsageError)
    assert str(error) == "Unknown score 'Magnitud' (did you mean 'magnitude'?): accepted are gradient, magnitude."


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert str(unknown_name("score", "xyz", ["gradient"])) == "Unknown score 'xyz': accepted are gradient."


def test_a_class_is_registered_under_a_free_name_in_its_looked_up_spelling() -> None:
    table: dict[str, type] = {}
    assert register("score", table, "mine")(int) is int
    assert register("score", table, "mine")(int) is int
    assert table == {"mine": int}
    with pytest.raises(UsageError, match="The score name 'mine' is taken by int; choose another"):
        register("score", table, "mine")(str)
    with pytest.raises(UsageError, match="'My-Own' cannot be looked up; accepted is 'my_own'"):
        register("score", table, "My-Own")
    with pytest.raises(UsageError, match="cannot be looked up"):
        register("score", table, "")
    assert table == {"mine": int}
