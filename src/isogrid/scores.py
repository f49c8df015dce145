"""Scores: how much a single weight matters.  The highest are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import UsageError
from isogrid.names import canonical, register, unknown_name

Statistics = Mapping[str, NDArray[Any]]

STATISTICS: dict[str, str] = {
    "gradient": "the mean over batches of the gradient of the loss",
    "squared_gradient": "the mean over batches of the square of a batch's gradient",
    "fisher": "the mean over samples of the square of a single sample's gradient: the diagonal of the empirical Fisher",
    "hessian_gradient": "the product of the loss's Hessian and its gradient, both of all targets together",
    "flow": "the gradient of the summed output by the absolute weight, for weights made absolute and an input of ones",
    "input_norm": "the L2 norm, over all samples and places, of the input that the weight multiplies",
}
"""What a score may look at beside the weight: each has the weight's shape (`input_norm` may lack its axis 0)."""


class Score(ABC):
    """How much a weight matters.

    A score of your own is a frozen dataclass with `name`, `needs` where it looks at more than the weight, and `rate`.

    Attributes:
        name: what `parse_score` and the command line call it.
        needs: the `STATISTICS` that a call must be given.
        rounds: in how many rounds a model is pruned by it as published, each on what the round before has left.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    rounds: ClassVar[int] = 1

    @abstractmethod
    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        """The scores; ``__call__`` has checked that `known` has what the score needs, in the weight's shape."""

    @final
    def __call__(
        self, weight: NDArray[Any], *, rng: np.random.Generator | None = None, **statistics: NDArray[Any] | None
    ) -> NDArray[np.floating]:
        """One real number a weight, higher for a weight that matters more.

        A caller may always pass all that it has; a score reads what it needs and changes none of it.

        Args:
            weight: the weight, of any shape.
            rng: where random numbers come from.
            statistics: of the weight, by the names of `STATISTICS`.

        Raises:
            UsageError: something that the score needs is missing or has another shape, or a name is none of a
                statistic.
        """
        for name in statistics:
            if name not in STATISTICS:
                raise unknown_name("statistic", name, STATISTICS)
        known = {name: self._checked(name, weight.shape, statistics.get(name)) for name in sorted(self.needs)}
        return np.asarray(self.rate(weight, known, rng))

    def _checked(self, name: str, shape: tuple[int, ...], statistic: NDArray[Any] | None) -> NDArray[Any]:
        if statistic is not None and name == "input_norm" and shape and statistic.shape == shape[1:]:
            statistic = np.broadcast_to(statistic, shape)
        if statistic is None or statistic.shape != shape:
            arrived = f"no {name}" if statistic is None else f"{name} of shape {statistic.shape}"
            raise UsageError(f"Score {self} got {arrived}: it needs one of the weight's shape {shape}.")
        return statistic

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

    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        return _absolute(weight)


@dataclass(frozen=True)
class Gradient(Score):
    """The absolute value of the gradient, ``|dL/dw|``: where a change would lower the loss fastest.

    Source: Evci et al. 2020, "Rigging the lottery", arXiv:1911.11134, section 3 (where to grow).

    >>> Gradient()(np.zeros(2), gradient=np.array([0.5, -1.0]))
    array([0.5, 1. ])
    """

    name: ClassVar[str] = "gradient"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        return _absolute(known["gradient"])


@dataclass(frozen=True)
class Random(Score):
    """A number drawn uniformly from [0, 1): the baseline that any other score must beat.

    Source: Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity",
    arXiv:1707.04780 (where to grow).

    >>> Random()(np.zeros(3), rng=np.random.default_rng(0)).round(2)
    array([0.64, 0.27, 0.04])
    """

    name: ClassVar[str] = "random"

    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        if rng is None:
            raise UsageError(f"Score {self} got no random generator: it needs rng=numpy.random.default_rng(seed).")
        return np.asarray(rng.random(weight.shape))


@dataclass(frozen=True)
class SNIP(Score):
    """Connection sensitivity, ``|w dL/dw|``: how much the loss moves with the weight's own gate.

    Published with the scores divided by their sum, which does not change their order.

    Source: Lee et al. 2019, "SNIP: single-shot network pruning based on connection sensitivity", arXiv:1810.02340.

    >>> SNIP()(np.array([2.0, -3.0]), gradient=np.array([0.5, 0.1])).round(2)
    array([1. , 0.3])
    """

    name: ClassVar[str] = "snip"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        return _absolute(_product(weight, known["gradient"]))


@dataclass(frozen=True)
class GraSP(Score):
    """Gradient signal preservation, ``w (H g)``: how much of ``g'g``, the squared gradient norm, goes with the weight.

    The paper gives each weight ``-w (H g)``, half the first-order change of ``g'g`` where the weight is removed, and
    removes the highest; this is its negative, of which the highest are kept.

    Source: Wang et al. 2020, "Picking winning tickets before training by preserving gradient flow", arXiv:2002.07376,
    section 4.

    >>> GraSP()(np.array([2.0, -3.0]), hessian_gradient=np.array([0.5, 0.5]))
    array([ 1. , -1.5])
    """

    name: ClassVar[str] = "grasp"
    needs: ClassVar[frozenset[str]] = frozenset({"hessian_gradient"})

    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        return _product(weight, known["hessian_gradient"])


@dataclass(frozen=True)
class SynFlow(Score):
    """Synaptic flow, ``|w| dR/d|w|`` with ``R = 1' (prod_l |W_l|) 1``: what of all paths' weight runs through it.

    In a network that is linear between its weights the scores of every layer have the same sum, R.  So a layer that
    gets small keeps ever higher scores, and pruning in rounds does not empty it as long as others have more than one.

    Source: Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow",
    arXiv:2006.05467, algorithm 1 (100 rounds).

    >>> SynFlow()(np.array([2.0, -3.0]), flow=np.array([0.5, 0.5]))
    array([1. , 1.5])
    """

    name: ClassVar[str] = "synflow"
    needs: ClassVar[frozenset[str]] = frozenset({"flow"})
    rounds: ClassVar[int] = 100

    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        return _product(_absolute(weight), known["flow"])


@dataclass(frozen=True)
class Taylor(Score):
    """First-order Taylor importance, ``w^2 mean_b (dL_b/dw)^2``: the squared change of the loss, mean over batches b.

    A group of a pattern counts by the sum over its weights, as one variant of the paper does.

    Source: Molchanov et al. 2019, "Importance estimation for neural network pruning", arXiv:1906.10771.

    >>> Taylor()(np.array([2.0, -3.0]), squared_gradient=np.array([0.25, 1.0]))
    array([1., 9.])
    """

    name: ClassVar[str] = "taylor"
    needs: ClassVar[frozenset[str]] = frozenset({"squared_gradient"})

    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        return _product(np.square(_floating(weight)), known["squared_gradient"])


@dataclass(frozen=True)
class Fisher(Score):
    """Diagonal empirical Fisher, ``w^2 / 2 mean_n (dL_n/dw)^2`` over samples n: the loss's rise to second order.

    The curvature is estimated by the squared gradients of single samples, for a model trained to a minimum.

    Source: Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning", arXiv:1801.05787
    (there of whole feature maps).

    >>> Fisher()(np.array([2.0, -3.0]), fisher=np.array([0.5, 0.5]))
    array([1.  , 2.25])
    """

    name: ClassVar[str] = "fisher"
    needs: ClassVar[frozenset[str]] = frozenset({"fisher"})

    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        return _product(np.square(_floating(weight)) / 2, known["fisher"])


@dataclass(frozen=True)
class Movement(Score):
    """Movement, ``-w dL/dw``: high where descent moves the weight away from zero, low where it moves towards it.

    Published as the sum over training steps; over batches of data with the weights at rest that is the mean gradient,
    up to a factor that does not change the order.

    Source: Sanh et al. 2020, "Movement pruning: adaptive sparsity by fine-tuning", arXiv:2005.07683, section 3.

    >>> Movement()(np.array([2.0, -3.0]), gradient=np.array([-0.5, -0.5]))
    array([ 1. , -1.5])
    """

    name: ClassVar[str] = "movement"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        return np.asarray(-_product(weight, known["gradient"]))


@dataclass(frozen=True)
class Wanda(Score):
    """Weight and activation, ``|w| ||x||_2`` with x what the weight multiplies: what it adds to the layer's output.

    Published within each output: pattern ``"fan_in"`` and allocation ``"uniform"`` compare so.

    Source: Sun et al. 2023, "A simple and effective pruning approach for large language models", arXiv:2306.11695.

    >>> Wanda()(np.array([[2.0, -3.0], [1.0, 1.0]]), input_norm=np.array([4.0, 1.0]))
    array([[8., 3.],
           [4., 1.]])
    """

    name: ClassVar[str] = "wanda"
    needs: ClassVar[frozenset[str]] = frozenset({"input_norm"})

    def rate(self, weight: NDArray[Any], known: Statistics, rng: np.random.Generator | None) -> NDArray[np.floating]:
        return _product(_absolute(weight), known["input_norm"])


_ScoreClass = TypeVar("_ScoreClass", bound=type[Score])

_SCORES: dict[str, type[Score]] = {
    score.name: score for score in (Magnitude, Gradient, Random, SNIP, GraSP, SynFlow, Taylor, Fisher, Movement, Wanda)
}


def register_score(name: str) -> Callable[[_ScoreClass], _ScoreClass]:
    """A class decorator: `parse_score` and the command line then know a score of your own by that name.

    The class must be constructible without arguments.

    Raises:
        UsageError: the name is taken, or it is not lower case with underscores.
    """
    return register("score", _SCORES, name)


def parse_score(text: str) -> Score:
    """The score named by `text`: one of magnitude, gradient, random, snip, grasp, synflow, taylor, fisher, ...

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


def _floating(array: NDArray[Any]) -> NDArray[np.floating]:
    """In single precision at least: a product of half-precision numbers easily leaves their range."""
    return np.asarray(array, dtype=np.result_type(array, np.float32))


def _product(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.floating]:
    return np.asarray(np.multiply(_floating(one), _floating(other)))
