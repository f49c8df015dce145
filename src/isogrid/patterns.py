"""Patterns: the shapes in which zeros may come.

A pattern cuts a weight into *partitions* and each partition into *groups* of weights.  Groups are kept or removed
whole, and every partition keeps the same number of them.  `Unstructured` is one partition of single weights, ``2:4``
is many partitions of four single weights, `Row` is one partition whose groups are whole rows.

Shapes are those of the canonical weight: axis 0 is the output, axis 1 the input, kernel axes follow.
"""

from __future__ import annotations

import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isogrid.errors import PatternError, UsageError
from isogrid.names import canonical, register, unknown_name

_NARROW = 64
"""Up to which width all partitions are ranked in one call of numpy, however many equal scores there are."""


def active_count(size: int, sparsity: float) -> int:
    """How many of `size` weights stay active at `sparsity`: ``size - ceil(sparsity * size)``.

    The sparsity asked for is the least one gets, up to 1e-12: that much is forgiven so that the rounding of a product
    like ``0.07 * 100`` (7.000000000000001) does not cost a weight.

    Raises:
        UsageError: `size` is negative, or `sparsity` is outside [0, 1].

    >>> active_count(100, 0.07), active_count(10, 0.95), active_count(3, 1.0)
    (93, 0, 0)
    """
    if size < 0:
        raise UsageError(f"A tensor cannot have {size} weights: a size is 0 or more.")
    if not 0.0 <= sparsity <= 1.0:
        raise UsageError(f"Sparsity {sparsity} is not accepted: it is a fraction from 0 (dense) to 1 (all zero).")
    removed = math.ceil(sparsity * size - 1e-12 * size)
    return size - max(removed, 0)


def rankable(scores: ArrayLike) -> NDArray[np.floating]:
    """`scores` as an array that can be ranked: floating point keeps its type, integers and bools become float64.

    Raises:
        PatternError: a score is not a finite real number.

    >>> rankable([3, 1]).dtype
    dtype('float64')
    """
    values = np.asarray(scores)
    if values.dtype.kind in "iub":
        return values.astype(np.float64)
    if values.dtype.kind != "f":
        raise PatternError(f"Scores of type {values.dtype} cannot be ranked: accepted are real numbers.")
    finite = np.count_nonzero(np.isfinite(values))
    if finite < values.size:
        raise PatternError(
            f"{values.size - finite} of {values.size} scores are not finite: only finite scores can be ranked."
        )
    return values


@dataclass(frozen=True)
class Grid:
    """How a pattern cuts one tensor.

    Attributes:
        partitions: parts that all keep the same number of groups.
        groups: groups in each partition.
        size: weights in each group.
    """

    partitions: int
    groups: int
    size: int

    @property
    def step(self) -> int:
        """Weights added by one more group in every partition: the granularity of the pattern on this tensor.

        >>> FanIn().grid((8, 32)).step
        8
        """
        return self.partitions * self.size


class Pattern(ABC):
    """The shape in which zeros come.

    A pattern of your own is a frozen dataclass with four methods: `grid`, `fold`, `unfold` and ``__str__``.
    """

    @property
    def implied_sparsity(self) -> float | None:
        """The sparsity that the pattern itself dictates, or None where it leaves the choice open."""
        return None

    @abstractmethod
    def grid(self, shape: Sequence[int]) -> Grid:
        """How a tensor of `shape` is cut.

        Raises:
            PatternError: the pattern does not fit the shape.
        """

    @abstractmethod
    def fold(self, array: NDArray[Any]) -> NDArray[Any]:
        """`array` rearranged to ``[partitions, groups, size]``; a view where possible."""

    @abstractmethod
    def unfold(self, cells: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """The inverse of `fold`: ``[partitions, groups, size]`` back to `shape`."""

    @abstractmethod
    def __str__(self) -> str:
        """The text that names the pattern; `parse_pattern` reads it back."""

    @final
    def check(self, shape: Sequence[int]) -> None:
        """Raise `PatternError` if the pattern does not fit a tensor of `shape`.

        >>> NofM(2, 4).check((8, 16))
        """
        self.grid(shape)

    @final
    def pool(self, scores: ArrayLike) -> NDArray[np.float64]:
        """The score of each group: the sum of its weights' scores, as float64 ``[partitions, groups]``.

        Raises:
            PatternError: the pattern does not fit, or a score is not a finite real number.

        >>> Row().pool([[1.0, 2.0], [3.0, 4.0]])
        array([[3., 7.]])
        """
        return self._pool(rankable(scores))

    @final
    def spread(self, kept: NDArray[np.bool_], shape: Sequence[int]) -> NDArray[np.bool_]:
        """The mask of `shape` in which exactly the weights of the groups in `kept` are active.

        Raises:
            PatternError: the pattern does not fit, or `kept` is not bool ``[partitions, groups]``.

        >>> Row().spread(np.array([[True, False]]), (2, 3)).astype(int)
        array([[1, 1, 1],
               [0, 0, 0]])
        """
        grid = self.grid(shape)
        if kept.dtype != np.bool_ or kept.shape != (grid.partitions, grid.groups):
            raise PatternError(
                f"Kept groups of type {kept.dtype} and shape {kept.shape} do not fit pattern {self} on {tuple(shape)}: "
                f"accepted is bool of shape {(grid.partitions, grid.groups)}."
            )
        cells = np.broadcast_to(kept[:, :, None], (grid.partitions, grid.groups, grid.size))
        return np.array(self.unfold(cells, shape), order="C")

    @final
    def mask(self, scores: ArrayLike, active: int) -> NDArray[np.bool_]:
        """The mask that keeps the best-scored groups, with at most `active` weights.

        Every partition keeps ``floor(active / partitions / size)`` groups: those of the highest pooled score, and of
        groups with the same score the one with the lower index.  So masks of the same scores are nested.

        Args:
            scores: one real finite number a weight; higher is kept.
            active: the most weights that may stay active, from 0 to the number of weights.

        Returns:
            A bool array of the shape of `scores`, True where active.

        Raises:
            PatternError: the pattern does not fit, a score is not a finite real number, or `active` is out of range.

        >>> Unstructured().mask([[3.0, 1.0], [2.0, 2.0]], active=2)
        array([[ True, False],
               [ True, False]])
        """
        values = rankable(scores)
        grid = self.grid(values.shape)
        active = operator.index(active)
        if not 0 <= active <= values.size:
            raise PatternError(f"Cannot keep {active} weights of {values.size}: accepted is 0 to {values.size}.")
        if values.size == 0:
            return np.zeros(values.shape, dtype=np.bool_)
        # A cast to float64 keeps order and ties, so groups of one weight are ranked as they came: half the memory.
        ranked = self.fold(values)[:, :, 0] if grid.size == 1 else self._pool(values)
        return self.spread(_best(ranked, active // grid.step), values.shape)

    @final
    def conforms(self, mask: NDArray[np.bool_]) -> bool:
        """Whether `mask` is one that the pattern can produce: whole groups, equally many in every partition.

        Raises:
            PatternError: the pattern does not fit the shape, or `mask` is not bool.

        >>> NofM(2, 4).conforms(np.array([[True, True, False, False, True, False, False, False]]))
        False
        """
        if mask.dtype != np.bool_:
            raise PatternError(f"A mask of type {mask.dtype} is not accepted: masks are bool.")
        grid = self.grid(mask.shape)
        if mask.size == 0:
            return True
        counts = self.fold(mask).sum(axis=2)
        kept = counts == grid.size
        per_partition = kept.sum(axis=1)
        return bool(np.all(kept | (counts == 0)) and np.all(per_partition == per_partition[0]))

    def _pool(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        self.grid(values.shape)
        # numpy's order of summation follows the memory layout and the cast buffer: a C-ordered float64 copy fixes it.
        cells = np.asarray(self.fold(values), dtype=np.float64, order="C")
        return np.asarray(cells.sum(axis=2))


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Any weight may be zero: one partition of single weights, for tensors of any number of axes.

    Source: Han et al. 2015, "Learning both weights and connections", arXiv:1506.02626.

    >>> Unstructured().grid((3, 5))
    Grid(partitions=1, groups=15, size=1)
    """

    def grid(self, shape: Sequence[int]) -> Grid:
        return Grid(1, math.prod(shape), 1)

    def fold(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.reshape(1, array.size, 1)

    def unfold(self, cells: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        return cells.reshape(tuple(shape))

    def __str__(self) -> str:
        return "unstructured"


@dataclass(frozen=True)
class NofM(Pattern):
    """N:M sparsity: of every `of` consecutive inputs, at one output and kernel place, `keep` stay.

    The sparsity ``1 - keep / of`` is implied.  `mask` still obeys the number it is given, so a gradual method may pass
    through 3:4 on its way to 2:4.  Needs at least 2 axes, and inputs that `of` divides.

    Source: Mishra et al. 2021, "Accelerating sparse deep neural networks", arXiv:2104.08378.

    Raises:
        PatternError: not ``1 <= keep <= of``.

    >>> NofM(2, 4).mask([[1.0, 4.0, 3.0, 2.0]], active=2)
    array([[False,  True,  True, False]])
    """

    keep: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.of:
            raise PatternError(f"Pattern {self} is not accepted: N:M needs 1 <= N <= M, such as 2:4.")

    @property
    def implied_sparsity(self) -> float | None:
        return 1.0 - self.keep / self.of

    def grid(self, shape: Sequence[int]) -> Grid:
        _need_axes(self, shape)
        if shape[1] % self.of:
            raise PatternError(
                f"Pattern {self} does not fit shape {tuple(shape)}: "
                f"the {shape[1]} inputs (axis 1) must be a multiple of {self.of}."
            )
        return Grid(math.prod(shape) // self.of, self.of, 1)

    def fold(self, array: NDArray[Any]) -> NDArray[Any]:
        outputs, inputs, places = array.shape[0], array.shape[1], math.prod(array.shape[2:])
        runs = array.reshape(outputs, inputs // self.of, self.of, places).swapaxes(2, 3)
        return runs.reshape(array.size // self.of, self.of, 1)

    def unfold(self, cells: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        runs = cells.reshape(shape[0], shape[1] // self.of, math.prod(shape[2:]), self.of)
        return runs.swapaxes(2, 3).reshape(tuple(shape))

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"


@dataclass(frozen=True)
class Block(Pattern):
    """Tiles of `rows` x `cols` weights on the matrix view ``[outputs, inputs * kernel places]``.

    Needs at least 2 axes, and a matrix that the tile divides.

    Source: Narang et al. 2017, "Block-sparse recurrent neural networks", arXiv:1711.02782.

    Raises:
        PatternError: `rows` or `cols` below 1.

    >>> Block(2, 2).mask([[1.0, 1.0, 0.0, 9.0], [1.0, 1.0, 0.0, 0.0]], active=4).astype(int)
    array([[0, 0, 1, 1],
           [0, 0, 1, 1]])
    """

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise PatternError(f"Pattern {self} is not accepted: a block has at least 1 row and 1 column.")

    def grid(self, shape: Sequence[int]) -> Grid:
        _need_axes(self, shape)
        height, width = shape[0], math.prod(shape[1:])
        if height % self.rows or width % self.cols:
            raise PatternError(
                f"Pattern {self} does not fit shape {tuple(shape)}: the matrix view {height} x {width} "
                f"must be a multiple of {self.rows} x {self.cols}."
            )
        return Grid(1, (height // self.rows) * (width // self.cols), self.rows * self.cols)

    def fold(self, array: NDArray[Any]) -> NDArray[Any]:
        down, across = array.shape[0] // self.rows, math.prod(array.shape[1:]) // self.cols
        tiles = array.reshape(down, self.rows, across, self.cols).swapaxes(1, 2)
        return tiles.reshape(1, down * across, self.rows * self.cols)

    def unfold(self, cells: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        down, across = shape[0] // self.rows, math.prod(shape[1:]) // self.cols
        return cells.reshape(down, across, self.rows, self.cols).swapaxes(1, 2).reshape(tuple(shape))

    def __str__(self) -> str:
        return f"block:{self.rows}x{self.cols}"


@dataclass(frozen=True)
class Row(Pattern):
    """Whole slices along axis 0: an output neuron or a filter is kept or removed.  Needs at least 2 axes.

    Source: Li et al. 2017, "Pruning filters for efficient ConvNets", arXiv:1608.08710.

    >>> Row().mask([[1.0, 1.0], [0.0, 3.0]], active=3)
    array([[False, False],
           [ True,  True]])
    """

    def grid(self, shape: Sequence[int]) -> Grid:
        _need_axes(self, shape)
        return Grid(1, shape[0], math.prod(shape[1:]))

    def fold(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.reshape(1, array.shape[0], math.prod(array.shape[1:]))

    def unfold(self, cells: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        return cells.reshape(tuple(shape))

    def __str__(self) -> str:
        return "row"


@dataclass(frozen=True)
class Channel(Pattern):
    """Whole slices along axis 1: an input feature or channel is kept or removed.  Needs at least 2 axes.

    Source: He et al. 2017, "Channel pruning for accelerating very deep neural networks", arXiv:1707.06168.

    >>> Channel().mask([[1.0, 1.0], [0.0, 3.0]], active=2)
    array([[False,  True],
           [False,  True]])
    """

    def grid(self, shape: Sequence[int]) -> Grid:
        _need_axes(self, shape)
        return Grid(1, shape[1], shape[0] * math.prod(shape[2:]))

    def fold(self, array: NDArray[Any]) -> NDArray[Any]:
        channels = array.swapaxes(0, 1)
        return channels.reshape(1, channels.shape[0], math.prod(channels.shape[1:]))

    def unfold(self, cells: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        return cells.reshape(shape[1], shape[0], *shape[2:]).swapaxes(0, 1)

    def __str__(self) -> str:
        return "channel"


@dataclass(frozen=True)
class FanIn(Pattern):
    """Constant fan-in: every output keeps the same number of its weights.  Needs at least 2 axes.

    Source: Lasby et al. 2024, "Dynamic sparse training with structured sparsity", arXiv:2305.02299.

    >>> FanIn().mask([[1.0, 2.0, 3.0], [9.0, 8.0, 7.0]], active=2).astype(int)
    array([[0, 0, 1],
           [1, 0, 0]])
    """

    def grid(self, shape: Sequence[int]) -> Grid:
        _need_axes(self, shape)
        return Grid(shape[0], math.prod(shape[1:]), 1)

    def fold(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.reshape(array.shape[0], math.prod(array.shape[1:]), 1)

    def unfold(self, cells: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        return cells.reshape(tuple(shape))

    def __str__(self) -> str:
        return "fan_in"


_PatternClass = TypeVar("_PatternClass", bound=type[Pattern])

_PLAIN: dict[str, type[Pattern]] = {"unstructured": Unstructured, "row": Row, "channel": Channel, "fan_in": FanIn}


def register_pattern(name: str) -> Callable[[_PatternClass], _PatternClass]:
    """A class decorator: `parse_pattern` and the command line then know a pattern of your own by that name.

    The class must be constructible without arguments.

    Raises:
        UsageError: the name is taken, or it is not lower case with underscores.
    """
    return register("pattern", _PLAIN, name)


def parse_pattern(text: str) -> Pattern:
    """The pattern named by `text`: unstructured, row, channel, fan_in, N:M such as 2:4, or block:ROWSxCOLS.

    Raises:
        UsageError: the text names no pattern, or its numbers are not accepted.

    >>> parse_pattern("2:4"), parse_pattern("block:4x1"), str(FanIn())
    (NofM(keep=2, of=4), Block(rows=4, cols=1), 'fan_in')
    """
    name = canonical(text)
    if name in _PLAIN:
        return _PLAIN[name]()
    if match := re.fullmatch(r"(\d+):(\d+)", name):
        return NofM(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"block:(\d+)x(\d+)", name):
        return Block(int(match[1]), int(match[2]))
    raise unknown_name("pattern", text, [*_PLAIN, "N:M (2:4)", "block:ROWSxCOLS (block:4x1)"])


def _need_axes(pattern: Pattern, shape: Sequence[int]) -> None:
    if len(shape) < 2:
        raise PatternError(
            f"Pattern {pattern} does not fit shape {tuple(shape)}: it needs at least 2 axes, output and input."
        )


def nth_largest(values: NDArray[np.floating], n: int) -> Any:
    """The `n`-th largest of some numbers, 1 being the largest.

    Numbers that equal the smallest are left out of the search.  A mask that is pruned further has many of them, one for
    each weight that is gone, and numpy's partition takes up to twenty times as long where numbers are equal.

    >>> [float(nth_largest(np.array([-1.0, 3.0, -1.0, 2.0]), n)) for n in (1, 2, 3)]
    [3.0, 2.0, -1.0]
    """
    lowest = values.min()
    above = values[values > lowest]
    return lowest if above.size < n else np.partition(above, above.size - n)[above.size - n]


def _best(values: NDArray[np.floating], keep: int) -> NDArray[np.bool_]:
    """True at the `keep` highest values of each row, ties to the lower index, in linear time."""
    width = values.shape[1]
    if keep == 0:
        return np.zeros(values.shape, dtype=np.bool_)
    if keep == width:
        return np.ones(values.shape, dtype=np.bool_)
    if width <= _NARROW:
        threshold = np.partition(values, width - keep, axis=1)[:, width - keep, None]
    else:
        threshold = np.array([nth_largest(row, keep) for row in values])[:, None]
    kept = values >= threshold
    surplus = np.count_nonzero(kept, axis=1) - keep
    crowded = np.flatnonzero(surplus)
    if crowded.size:
        ties = values[crowded] == threshold[crowded]
        seats = np.count_nonzero(ties, axis=1) - surplus[crowded]
        kept[crowded] &= ~ties | (np.cumsum(ties, axis=1) <= seats[:, None])
    return kept
