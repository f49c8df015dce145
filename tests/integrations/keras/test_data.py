"""What the main job takes as data."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import pytest

from isogrid.errors import DataError, UsageError
from isogrid.integrations.keras.data import Data

X, Y = np.arange(20, dtype=np.float32).reshape(10, 2), np.arange(10)


class Indexed(keras.utils.PyDataset):
    """Batches of four that are shuffled at the end of a pass."""

    passes = 0

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return X[4 * index : 4 * index + 4], Y[4 * index : 4 * index + 4]

    def on_epoch_end(self) -> None:
        self.passes += 1


def labels(data: Data) -> list[int]:
    return [int(label) for _, batch in data.batches() for label in batch]


@pytest.mark.parametrize("form", ["arrays", "list", "indexed", "loader", "unknown length"])
def test_each_form_gives_the_same_batches(form: str) -> None:
    parts = [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)]

    class Unknown:
        def __iter__(self) -> Any:
            return iter(parts)

    forms: dict[str, Any] = {
        "arrays": (X, Y), "list": parts, "indexed": Indexed(), "unknown length": Unknown(),
        "loader": [[x, y] for x, y in parts],
    }  # fmt: skip
    data = Data("train", forms[form], batch_size=4)
    assert data.steps == 3
    assert labels(data) == list(range(10))
    assert labels(data) == list(range(10))
    assert np.array_equal(data.first()[0], X[:4])


def drawn(data: Data, epoch: int, passes: int = 1) -> list[int]:
    stream = data.endless(seed=0, phase="dense-00", epoch=epoch)
    return [int(label) for _ in range(passes * data.steps) for label in next(stream)[1]]


def test_a_pass_in_the_middle_is_in_the_order_that_it_has_from_the_beginning() -> None:
    data = Data("train", (X, Y), batch_size=4)
    both = drawn(data, 0, passes=2)
    assert sorted(both[:10]) == sorted(both[10:]) == list(range(10))
    assert both[:10] != both[10:]
    assert drawn(data, 1) == both[10:]


def test_data_that_shuffle_themselves_draw_from_seeded_generators() -> None:
    class Shuffling:
        def __iter__(self) -> Any:
            order = np.random.permutation(10)  # noqa: NPY002
            if random.random() < 0.5:
                order = order[::-1]
            return iter([(X[order], Y[order])])

        def __len__(self) -> int:
            return 1

    data = Data("train", Shuffling(), batch_size=4)
    both = drawn(data, 0, passes=2)
    assert both[:10] != both[10:]
    assert drawn(data, 1) == both[10:]


def test_inputs_may_be_nested_and_weighted() -> None:
    data = Data("train", ({"a": X, "b": [X, X]}, Y, np.ones(10)), batch_size=6)
    batch = data.first()
    assert len(batch) == 3
    assert batch[0]["b"][1].shape == (6, 2)


def test_what_is_no_data_is_one_sentence() -> None:
    for given, sentence in (
        (7, "train is int"),
        ((X, Y, Y, Y), "train is a tuple of 4"),
        ((x for x in [(X, Y)]), "an iterator, which ends after one pass"),
        ((X, Y[:9]), "arrays of 9, 10 samples"),
    ):
        with pytest.raises(UsageError, match=sentence):
            Data("train", given, batch_size=4)
    with pytest.raises(DataError, match="holds no sample"):
        Data("train", (X[:0], Y[:0]), batch_size=4)
    with pytest.raises(DataError, match="no finite number of batches"):
        _ = Data("train", [], batch_size=4).steps
    with pytest.raises(UsageError, match="has 1 parts"):
        Data("train", [X], batch_size=4).first()
