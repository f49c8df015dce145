"""What every state of a sparse training promises."""

from __future__ import annotations

import numpy as np
import pytest

from isogrid.errors import PatternError, TargetError, TrainingError
from isogrid.patterns import NofM
from isogrid.rules.state import check_masks
from rules.arrays import ArrayState


def test_active_and_zero_weights_are_counted_apart() -> None:
    state = ArrayState([[1.0, 0.0, 2.0, 3.0]], [[4.0, 5.0]])
    assert (state.size, state.active, state.mask_sparsity, state.sparsity) == (6, 6, 0, pytest.approx(1 / 6))
    state.write_masks({"a": np.array([[True, True, False, False]])})
    assert (state.active, state.mask_sparsity, state.sparsity) == (4, pytest.approx(1 / 3), 0.5)


def test_progress_never_passes_one() -> None:
    state = ArrayState([[1.0]], total_steps=4)
    state.step = 3
    assert state.progress == 0.75
    state.step = 9
    assert state.progress == 1.0


def test_random_numbers_depend_on_step_purpose_and_layer() -> None:
    state = ArrayState([[1.0]], [[1.0]])
    one, other = state.layers
    first = state.rng("grow", one).random()
    assert state.rng("grow", one).random() == first
    state.step = 1
    assert len({first, *(state.rng(*key).random() for key in (("grow", one), ("grow", other), ("start", one)))}) == 4


def test_what_cannot_be_ranked_or_does_not_fit_is_named() -> None:
    state = ArrayState([[1.0, 2.0]], [[1.0, np.inf]])
    with pytest.raises(TrainingError, match=r"^The weights of b are not finite at step 0;"):
        state.check_finite()
    with pytest.raises(PatternError, match=r"^a does not fit the pattern; leave it out with ignore="):
        state.check_pattern(NofM(2, 4))


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({}, r"^The masks lack a; they must name exactly the targets, a, b\.$"),
        ({"a": (1, 2), "b": (1, 2), "c": (1, 2)}, r"^The masks name c;"),
        (
            {"a": (1, 2), "b": (2, 1)},
            r"^The mask of b is bool of shape \(2, 1\); accepted is bool of shape \(1, 2\)\.$",
        ),
    ],
)
def test_masks_must_be_those_of_the_targets(masks: dict[str, tuple[int, int]], said: str) -> None:
    given = {name: np.ones(shape, np.bool_) for name, shape in masks.items()}
    with pytest.raises(TargetError, match=said):
        check_masks(given, {"a": (1, 2), "b": (1, 2)}, np.dtype(bool))
