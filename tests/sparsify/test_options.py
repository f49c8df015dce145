"""What options of methods accept."""

from __future__ import annotations

from typing import Any

import pytest

from isogrid.errors import UsageError
from isogrid.rules.options import option_value
from isogrid.schedules import Cosine, Cubic
from isogrid.scores import SNIP, Magnitude
from isogrid.sparsify import ACDC, IMP, Gradual, RigL, Static, TopKAST


def test_schedules_and_scores_may_be_given_by_name() -> None:
    method = Gradual(sparsity=0.5, schedule="cubic:0.1..0.5", score="snip")  # type: ignore[arg-type]
    assert method == Gradual(sparsity=0.5, schedule=Cubic(0.1, 0.5), score=SNIP())
    assert RigL(sparsity=0.5, schedule="cosine").schedule == Cosine()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (RigL, {"schedule": 3}, "RigL got schedule=3; accepted is a Schedule, or the name of one"),
        (RigL, {"schedule": None}, "RigL got schedule=None"),
        (RigL, {"schedule": "qubic"}, "Unknown schedule 'qubic'"),
        (RigL, {"schedule": Magnitude()}, "accepted is a Schedule"),
        (Gradual, {"score": Cubic()}, "accepted is a Score"),
        (RigL, {"drop_fraction": "x"}, "RigL got drop_fraction='x'; accepted is float"),
        (RigL, {"drop_fraction": None}, "accepted is float"),
        (IMP, {"rewind_to": "x"}, "IMP got rewind_to='x'"),
        (TopKAST, {"lam": "x"}, "TopKAST got lam='x'"),
        (ACDC, {"reset_momentum": "no"}, "ACDC got reset_momentum='no'; accepted is bool"),
        (Static, {"masks": 3}, "Static got masks=3; accepted is a mapping"),
        (Static, {"masks": {"a": 1}}, "accepted is a mapping from parameter names to boolean tensors"),
    ],
)
def test_a_value_of_another_type_is_refused_where_it_is_given(kind: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        kind(sparsity=0.5, **options)


def test_a_method_judges_its_numbers_itself() -> None:
    assert option_value("it", 1.5, "int | None", exact=False) == 1.5
    with pytest.raises(UsageError, match="accepted is int"):
        option_value("it", "1", "int | None", exact=False)
    with pytest.raises(UsageError, match="accepted is a whole number of steps >= 1, or None"):
        RigL(sparsity=0.5, delta_t=True)
