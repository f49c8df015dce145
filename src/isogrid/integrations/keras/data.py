"""What a Keras model is trained and measured on: arrays, or anything that starts anew at each pass."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from isogrid.errors import DataError, UsageError
from isogrid.selection import generator

_ACCEPTED = "accepted are arrays (x, y), a tf.data.Dataset, a PyDataset, or a DataLoader or list of batches"


class Data:
    """A split of the data.

    Args:
        name: what errors call it.
        given: a tuple ``(x, y)`` or ``(x, y, sample_weight)`` of arrays, lists or dicts of arrays; or an iterable of
            batches ``(x, y)`` that starts anew at each pass.
        batch_size: samples of a batch of arrays.

    Raises:
        UsageError: an iterator or a function, which start only once, or arrays of different lengths.
        DataError: no sample.
    """

    def __init__(self, name: str, given: Any, batch_size: int) -> None:
        self.name, self._batch_size = name, batch_size
        self._arrays = given if isinstance(given, tuple) else None
        self._stream = given
        self._steps: int | None = None
        if self._arrays is None:
            if isinstance(given, Iterator) or not (hasattr(given, "__iter__") or hasattr(given, "__getitem__")):
                kind = "an iterator, which ends after one pass" if isinstance(given, Iterator) else type(given).__name__
                raise UsageError(f"{name} is {kind}; {_ACCEPTED}.")
            return
        if len(given) not in (2, 3):
            raise UsageError(f"{name} is a tuple of {len(given)}; {_ACCEPTED}.")
        self._arrays = _tupled(keras.tree.map_structure(_to_numpy, given))
        sizes = {len(part) for part in keras.tree.flatten(self._arrays)}
        if len(sizes) != 1:
            raise UsageError(
                f"{name} has arrays of {', '.join(map(str, sorted(sizes)))} samples; accepted is one size."
            )
        if sizes == {0}:
            raise DataError(f"{name} holds no sample; accepted is one or more.")

    @property
    def steps(self) -> int:
        """Batches of a pass.

        Raises:
            DataError: there are none, or they have no end.
        """
        if self._steps is None:
            self._steps = self._count()
            if self._steps < 1:
                raise DataError(f"{self.name} holds no finite number of batches; accepted is one batch or more.")
        return self._steps

    def _count(self) -> int:
        if self._arrays is not None:
            return -(-len(keras.tree.flatten(self._arrays)[0]) // self._batch_size)
        if hasattr(self._stream, "cardinality") and int(self._stream.cardinality()) >= -1:
            return int(self._stream.cardinality())  # -1 is endless
        try:
            return len(self._stream)
        except TypeError:
            return sum(1 for _ in self._passed())

    def batches(self) -> Iterator[tuple[Any, ...]]:
        """One pass in order, each batch a tuple ``(x, y)`` or ``(x, y, sample_weight)``."""
        if self._arrays is None:
            return self._passed()
        return self._sliced(np.arange(len(keras.tree.flatten(self._arrays)[0])))

    def endless(self, seed: int, phase: str, epoch: int) -> Iterator[tuple[Any, ...]]:
        """Pass after pass from that epoch on; each one's order depends on nothing but seed, phase and epoch.

        For data that shuffle themselves that is so as far as they draw from the global generators of Python, numpy or
        PyTorch.
        """
        while True:
            if self._arrays is None:
                _seed(seed, phase, epoch)
                yield from self._passed()
            else:
                order = generator(seed, epoch, "order", phase).permutation(len(keras.tree.flatten(self._arrays)[0]))
                yield from self._sliced(order)
            epoch += 1

    def epoch_begun(self, seed: int, phase: str, epoch: int) -> None:
        """Seed what dropout draws from on PyTorch, its global generator, unless the data draw from it too.

        Called when the first batch is about to be trained on: Keras looks at it, and makes a loader, before that.
        """
        if self._arrays is not None:
            _seed(seed, phase, epoch)

    def first(self) -> tuple[Any, ...]:
        """The first batch.

        Raises:
            DataError: there is none.
        """
        for batch in self.batches():
            return batch
        raise DataError(f"{self.name} holds no batch; accepted is one batch or more.")

    def _sliced(self, order: Any) -> Iterator[tuple[Any, ...]]:
        for begin in range(0, len(order), self._batch_size):
            rows = order[begin : begin + self._batch_size]
            yield keras.tree.map_structure(lambda part, rows=rows: part[rows], self._arrays)

    def _passed(self) -> Iterator[tuple[Any, ...]]:
        stream = self._stream
        indexed = isinstance(stream, keras.utils.PyDataset)
        for batch in (stream[index] for index in range(len(stream))) if indexed else stream:
            parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
            if len(parts) not in (2, 3):
                raise UsageError(
                    f"A batch of {self.name} has {len(parts)} parts; accepted are (x, y) and (x, y, weight)."
                )
            yield _tupled(keras.tree.map_structure(_to_numpy, parts))
        if indexed:
            stream.on_epoch_end()


def _tupled(nested: Any) -> Any:
    """Tuples for lists: tf.data, through which Keras reads batches on TensorFlow, takes a list for one array."""
    if isinstance(nested, dict):
        return {name: _tupled(part) for name, part in nested.items()}
    return tuple(map(_tupled, nested)) if isinstance(nested, tuple | list) else nested


def _to_numpy(part: Any) -> Any:
    return np.asarray(part.detach().cpu() if hasattr(part, "detach") else part)


def _seed(seed: int, phase: str, epoch: int) -> None:
    """Who shuffles draws from one of these, and so does dropout on PyTorch; else layers have states of their own."""
    derived = zlib.crc32(f"{seed}/{phase}/{epoch}".encode())
    random.seed(derived)
    np.random.seed(derived)  # noqa: NPY002 - the generator that a user's own code may draw from
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(derived)
