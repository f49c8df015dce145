"""What every vocabulary value is: frozen, hashable, equal by content, and named by its text."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings

from isogrid.errors import UsageError

# The same examples on every run.  One inherited test runs in many classes, which Hypothesis would take for a mistake.
seeded = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors],
)


class ValueConformance:
    """Set `parse` to the function that reads the value's text back, or to None where there is none."""

    parse: ClassVar[Callable[[str], Any] | None]

    @property
    def value(self) -> Any:
        raise NotImplementedError("the suite names its member")

    def test_it_is_a_frozen_dataclass(self) -> None:
        assert dataclasses.is_dataclass(self.value)
        with pytest.raises(dataclasses.FrozenInstanceError):
            self.value.anything = 1

    def test_equal_content_is_equal_and_hashes_alike(self) -> None:
        twin = dataclasses.replace(self.value)
        assert twin is not self.value
        assert twin == self.value
        assert hash(twin) == hash(self.value)
        assert self.value != object()

    def test_its_repr_is_the_code_that_makes_it(self) -> None:
        kind = type(self.value)
        assert eval(repr(self.value), {kind.__name__: kind}) == self.value

    def test_it_survives_copies_and_pickles(self) -> None:
        assert copy.deepcopy(self.value) == self.value
        assert pickle.loads(pickle.dumps(self.value)) == self.value

    def test_its_text_names_it(self) -> None:
        text = str(self.value)
        assert text == text.strip() != ""
        if self.parse is not None:
            assert self.parse(text) == self.value
            assert self.parse(f" {text.upper()} ") == self.value

    def test_a_misspelt_text_is_refused_with_what_is_accepted(self) -> None:
        if self.parse is not None:
            with pytest.raises(UsageError, match="accepted are"):
                self.parse(f"{self.value}?")
