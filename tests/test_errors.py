"""Errors and the codes that the command line ends with."""

from __future__ import annotations

import inspect

import pytest

from isogrid import errors
from isogrid.errors import IsogridError

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, IsogridError)]


def test_the_promised_codes() -> None:
    codes = {cls.__name__: cls.exit_code for cls in ALL}
    assert codes == {
        "IsogridError": 1, "SparsifierError": 1, "TrainingError": 1, "FormatError": 1, "RunError": 1, "UsageError": 2,
        "PatternError": 2, "TargetError": 2, "FloorError": 2, "UnsupportedError": 2, "MissingDependencyError": 2,
        "UndefinedMetricError": 2, "FloorNotHeldError": 3, "DataError": 4,
    }  # fmt: skip


@pytest.mark.parametrize("cls", ALL)
def test_an_error_says_its_sentence_and_says_what_it_is(cls: type[IsogridError]) -> None:
    with pytest.raises(IsogridError, match=r"^One sentence\.$"):
        raise cls("One sentence.")
    assert cls.__doc__


def test_wrong_arguments_are_value_errors_too() -> None:
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.MissingDependencyError, ImportError)
