"""Matrix factorisation on the ready task's data: what the neural recommender is held against.

``stars = c + b_u + b_f + <p_u, q_f>``, fitted by alternating least squares: with the films held, each user's bias and
vector are the solution of a ridge regression, and the other way round (Koren, Bell and Volinsky 2009,
doi:10.1109/MC.2009.263).  Rank, ridge and the number of rounds are chosen on the validation split; the test split is
looked at once, for the choice.  Beside RMSE stands NDCG@10 of the ranking of all films by their predicted stars.

    python benchmarks/embeddings/factorisation.py [--ranks 0 8 16] [--ridges 10 15 20] [--run RUN]

With ``--run``, the directory of a finished ``isogrid optimize recommendation`` in the fast setting (``--setting full``
of a full one), its dense and its sparse model are measured on the same test split.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import isogrid as ig
from isogrid.tasks.movielens import Ratings, load_movielens
from isogrid.tasks.recommendation import Recommendation, ndcg, root_mean_square
from isogrid.tasks.task import Split

_ROUNDS = 15
_BIAS_RIDGE = 3.0


@dataclass(frozen=True)
class Factors:
    """Biases ``[n]`` and vectors ``[n, rank]`` of users and films, around a mean."""

    mean: float
    user_bias: NDArray[np.float64]
    film_bias: NDArray[np.float64]
    users: NDArray[np.float64]
    films: NDArray[np.float64]

    def stars(self, user: NDArray[np.int64], film: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of pairs, ``[n]``."""
        together = np.einsum("nd,nd->n", self.users[user], self.films[film])
        return self.mean + self.user_bias[user] + self.film_bias[film] + together

    def all_stars(self) -> NDArray[np.float64]:
        """``[users, films]``."""
        return self.mean + self.user_bias[:, None] + self.film_bias + self.users @ self.films.T

    @property
    def numbers(self) -> int:
        return self.user_bias.size + self.film_bias.size + self.users.size + self.films.size


def fit(ratings: Ratings, rank: int, ridge: float) -> Iterator[Factors]:
    """The factors after each round."""
    here = ratings.of("train")
    user, film, stars = ratings.user[here], ratings.film[here], ratings.rating[here].astype(np.float64)
    mean = float(stars.mean())
    random = np.random.default_rng(0)
    b_u, b_f = np.zeros(ratings.users), np.zeros(ratings.films)
    p, q = random.normal(0, 0.1, (ratings.users, rank)), random.normal(0, 0.1, (ratings.films, rank))
    for _ in range(_ROUNDS):
        b_f, q = _solve(film, ratings.films, user, stars - mean - b_u[user], p, ridge)
        b_u, p = _solve(user, ratings.users, film, stars - mean - b_f[film], q, ridge)
        yield Factors(mean, b_u, b_f, p, q)


def _solve(
    own: NDArray[np.int64], count: int, other: NDArray[np.int64], wanted: NDArray[np.float64],
    vectors: NDArray[np.float64], ridge: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """The ridge regressions of all on one side, with the other side's vectors held."""
    rank = vectors.shape[1]
    solved = np.zeros((count, rank + 1))
    order = np.argsort(own, kind="stable")
    ends = np.cumsum(np.bincount(own, minlength=count))
    shrink = np.diag([_BIAS_RIDGE] + [ridge] * rank)
    for one, part in enumerate(np.split(order, ends[:-1])):
        if len(part):
            x = np.column_stack([np.ones(len(part)), vectors[other[part]]])
            solved[one] = np.linalg.solve(x.T @ x + shrink, x.T @ wanted[part])
    return solved[:, 0], solved[:, 1:]


def rmse(ratings: Ratings, factors: Factors, split: Split) -> float:
    """In stars, predictions clipped to their range as the task's are."""
    here = ratings.of(split)
    predicted = np.clip(factors.stars(ratings.user[here], ratings.film[here]), 0.5, 5.0)
    return root_mean_square(predicted - ratings.rating[here]).value


def ranking(ratings: Ratings, scores: NDArray[np.float64]) -> float:
    """NDCG@10 on the test split, mean over its users: all films are ranked but those of the two splits before."""
    seen, wanted = (np.zeros((ratings.users, ratings.films), dtype=bool) for _ in range(2))
    for split in ("train", "validation"):
        here = ratings.of(split)
        seen[ratings.user[here], ratings.film[here]] = True
    here = ratings.of("test")
    wanted[ratings.user[here], ratings.film[here]] = True
    return float(ndcg(scores, seen, wanted).mean())


def of_run(ratings: Ratings, folder: Path, setting: str) -> None:
    """Print the two models of a run."""
    task = Recommendation().at(setting)
    for name in ("dense", "model"):
        model = ig.load(folder / f"{name}.safetensors", into=task.model()).eval()
        films = torch.arange(ratings.films)
        with torch.no_grad():
            rows = [model(torch.stack([torch.full_like(films, user), films], 1)) for user in range(ratings.users)]
            value = task.evaluate(model, "test").value
        ranked = ranking(ratings, torch.stack(rows).numpy().astype(np.float64))
        print(f"{folder}/{name}: test RMSE {value:.4f}, NDCG@10 {ranked:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 8, 16])
    parser.add_argument("--ridges", type=float, nargs="+", default=[10.0, 15.0, 20.0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--setting", choices=["fast", "full"], default="fast")
    options = parser.parse_args()
    ratings = load_movielens()
    best: tuple[float, Factors] | None = None
    for rank, ridge in itertools.product(options.ranks, options.ridges):
        value, factors = min(
            ((rmse(ratings, factors, "validation"), factors) for factors in fit(ratings, rank, ridge)),
            key=lambda pair: pair[0],
        )
        print(f"rank {rank:3}, ridge {ridge:4g}: validation RMSE {value:.4f}", flush=True)
        best = (value, factors) if best is None or value < best[0] else best
    assert best is not None
    value, factors = best
    print(
        f"chosen: rank {factors.users.shape[1]}, {4 * factors.numbers:,} bytes; validation RMSE {value:.4f}, test RMSE "
        f"{rmse(ratings, factors, 'test'):.4f}, NDCG@10 {ranking(ratings, factors.all_stars()):.4f}"
    )
    if options.run:
        of_run(ratings, options.run, options.setting)


if __name__ == "__main__":
    main()
