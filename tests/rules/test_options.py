"""What an option accepts, told from the annotation of its field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isogrid.errors import UsageError
from isogrid.rules.options import option_value


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, "int", True), (np.int64(1), "int", True), (1.0, "int", False), (True, "int", False),
        (1, "float", True), (np.float32(1), "float", True), (False, "float", False), (None, "float | None", True),
        (True, "bool", True), (1, "bool", False), ("a", "str", True), (None, "str", False),
        ("a", "Mapping | None", True),
    ],
)  # fmt: skip
def test_plain_values_have_the_annotated_type(value: Any, annotation: str, fits: bool) -> None:
    if fits:
        assert option_value("it", value, annotation) is value
    else:
        with pytest.raises(UsageError, match="it; accepted is"):
            option_value("it", value, annotation)
