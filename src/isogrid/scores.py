"""Scores: how much a single weight matters.  The highest are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import UsageError
from isogrid.names import canonical, unknown_name


class Score(ABC):
    """How much a weight matters.

    A score of your own is a frozen dataclass with `name`, `needs_gradient` and ``__call__``.

    Attributes:
        name: what `parse_score` and the command line call it.
        needs_gradient: whether a call must be given the gradient of the loss.
    """

    name: ClassVar[str]
    needs_gradient: ClassVar[bool]

    @abstractmethod
    def __call__(
        self,
        weight: NDArray[Any],
        *,
        gradient: NDArray[Any] | None = None,
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.floating]:
        """One real number a weight, higher for a weight that matters more.

        A caller may always pass all three; a score reads what it needs and changes none of it.

        Args:
            weight: the weight, of any shape.
            gradient: of the loss by `weight`, of the same shape.
            rng: where random numbers come from.

        Raises:
            UsageError: something that the score needs is missing or has another shape.
        """

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Magnitude(Score):
    """The absolute value of the weight, ``|w|``.

    Source: Han et al. 2015, "Learning both weights and connections", arXiv:1506.02626.

    >>> Magnitude()(np.array([-3.0, 2.0]))
    array([3., 2.])
    """

    name: ClassVar[str] = "magnitude"
    needs_gradient: ClassVar[bool] = False

    def __call__(
        self,
        weight: NDArray[Any],
        *,
        gradient: NDArray[Any] | None = None,
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.floating]:
        return _absolute(weight)


@dataclass(frozen=True)
class Gradient(Score):
    """The absolute value of the gradient, ``|dL/dw|``: where a change would lower the loss fastest.

    Source: Evci et al. 2020, "Rigging the lottery", arXiv:1911.11134, section 3 (where to grow).

    >>> Gradient()(np.zeros(2), gradient=np.array([0.5, -1.0]))
    array([0.5, 1. ])
    """

    name: ClassVar[str] = "gradient"
    needs_gradient: ClassVar[bool] = True

    def __call__(
        self,
        weight: NDArray[Any],
        *,
        gradient: NDArray[Any] | None = None,
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.floating]:
        if gradient is None or gradient.shape != weight.shape:
            arrived = "no gradient" if gradient is None else f"a gradient of shape {gradient.shape}"
            raise UsageError(f"Score {self} got {arrived}: it needs one of the weight's shape {weight.shape}.")
        return _absolute(gradient)


@dataclass(frozen=True)
class Random(Score):
    """A number drawn uniformly from [0, 1): the baseline that any other score must beat.

    Source: Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity",
    arXiv:1707.04780 (where to grow).

    >>> Random()(np.zeros(3), rng=np.random.default_rng(0)).round(2)
    array([0.64, 0.27, 0.04])
    """

    name: ClassVar[str] = "random"
    needs_gradient: ClassVar[bool] = False

    def __call__(
        self,
        weight: NDArray[Any],
        *,
        gradient: NDArray[Any] | None = None,
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.floating]:
        if rng is None:
            raise UsageError(f"Score {self} got no random generator: it needs rng=numpy.random.default_rng(seed).")
        return np.asarray(rng.random(weight.shape))


_SCORES: dict[str, type[Score]] = {score.name: score for score in (Magnitude, Gradient, Random)}


def parse_score(text: str) -> Score:
    """The score named by `text`: magnitude, gradient or random.

    Raises:
        UsageError: the text names no score.

    >>> parse_score("magnitude")
    Magnitude()
    """
    name = canonical(text)
    if name not in _SCORES:
        raise unknown_name("score", text, _SCORES)
    return _SCORES[name]()


def _absolute(array: NDArray[Any]) -> NDArray[np.floating]:
    """Absolute values in floating point: that of the lowest integer does not fit its own type."""
    return np.asarray(np.abs(array if array.dtype.kind == "f" else array.astype(np.float64)))
