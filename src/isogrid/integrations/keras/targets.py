"""Which weights of a Keras model may be pruned, and how each is seen the way PyTorch stores it.

A *target* is the kernel of ``Dense``, ``EinsumDense`` (so also the projections of attention layers), ``Conv*``,
``Conv*Transpose``, the pointwise kernel of ``SeparableConv*``, and both kernels of ``LSTM``, ``GRU`` and ``SimpleRNN``
(also inside ``Bidirectional``).  Biases and norms are never targets.  Embeddings and depthwise kernels are targets only
when they are named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from isogrid.errors import TargetError, UnsupportedError, UsageError
from isogrid.matching import check_entries, matches, nothing_matches

_CELLS = ("LSTMCell", "GRUCell", "SimpleRNNCell", "ConvLSTMCell")
_BY_NAME_ONLY = ("embedding", "depthwise", "other")


@dataclass(frozen=True)
class View:
    """How an array in Keras' layout is seen in canonical view: axis 0 = output, axis 1 = input, then kernel axes.

    Attributes:
        order: the axes in which the array is transposed.
        folded: the canonical shape, to which the transposed array is reshaped.
    """

    order: tuple[int, ...]
    folded: tuple[int, ...]

    def canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """`array` in canonical view, contiguous.

        >>> View((1, 0), (3, 2)).canonical(np.zeros((2, 3))).shape
        (3, 2)
        """
        return np.ascontiguousarray(array.transpose(self.order)).reshape(self.folded)

    def restore(self, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """The inverse of `canonical`: back to `shape`, that of the variable.

        >>> View((1, 0), (3, 2)).restore(np.zeros((3, 2)), (2, 3)).shape
        (2, 3)
        """
        transposed = array.reshape([shape[axis] for axis in self.order])
        return np.ascontiguousarray(transposed.transpose(np.argsort(self.order)))


@dataclass(frozen=True, eq=False)
class Target:
    """A variable that may be pruned.

    ``name`` is the variable's place in the model, such as ``dense/kernel``, and ``kind`` the layer it belongs to
    (``dense``, ``einsum``, ``conv``, ``conv_transpose``, ``depthwise``, ``recurrent``, ``embedding``, ``other``).
    """

    name: str
    variable: Any
    kind: str
    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape."""
        return self.view.folded

    def read(self, variable: Any) -> NDArray[Any]:
        """The value of ``variable`` (of the target's own shape) in canonical view; half precision as float32."""
        array = np.asarray(keras.ops.convert_to_numpy(variable))
        if array.dtype.kind not in "biuf" or array.dtype.itemsize == 2:  # bfloat16 is no kind that numpy knows
            array = array.astype(np.float32)
        return self.view.canonical(array)

    def write(self, variable: Any, array: NDArray[Any]) -> None:
        """Assign ``array``, in canonical view, to ``variable``."""
        variable.assign(self.view.restore(array, tuple(self.variable.shape)))


def find_targets(
    model: Any,
    targets: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    *,
    embeddings: bool = False,
) -> list[Target]:
    """The weights of a built ``model`` that may be pruned, in the model's own order.

    ``targets`` and ``ignore`` hold names of weights (``dense/kernel``) or layers (``dense``), or regular expressions
    that match a whole name.  Without ``targets`` all weights of the layers listed at the top of this module are taken;
    naming one also admits embeddings, depthwise kernels and any other weight of two axes or more.  ``embeddings=True``
    admits the embeddings without naming them.  A layer that is used several times appears once.

    Raises:
        TargetError: an entry matches nothing, or no target is left.
        UsageError: the model is not built yet, or it is no Keras model.

    >>> from keras import Sequential, layers
    >>> model = Sequential([layers.Embedding(9, 4, name="words"), layers.LSTM(3, name="memory")])
    >>> model.build((None, 5))
    >>> [target.name for target in find_targets(model)]
    ['memory/lstm_cell/kernel', 'memory/lstm_cell/recurrent_kernel']
    """
    if not isinstance(model, keras.Layer):
        raise UsageError(f"Got a {type(model).__name__} where a Keras model is accepted.")
    found = all_candidates(model)
    names = [target.name for target in found]
    wanted, unwanted = check_entries("targets", targets), check_entries("ignore", ignore) or []
    for option, entries in (("targets", wanted or []), ("ignore", unwanted)):
        for entry in entries:
            if not any(matches(entry, name, "/") for name in names):
                raise nothing_matches(option, entry, names)
    if wanted is None:
        chosen = [t for t in found if t.kind not in _BY_NAME_ONLY or (embeddings and t.kind == "embedding")]
    else:
        chosen = [t for t in found if any(matches(entry, t.name, "/") for entry in wanted)]
    chosen = [t for t in chosen if not any(matches(entry, t.name, "/") for entry in unwanted)]
    if not chosen and not model.built:
        raise UsageError(
            "The model has no weights yet; build it with model.build(input_shape), or give it an Input layer."
        )
    if not chosen:
        raise TargetError(
            f"No weight of {model.name} can be pruned; accepted are weights of two axes or more, of Dense, Conv, "
            "recurrent and attention layers or named in targets."
        )
    return chosen


def all_candidates(model: Any) -> list[Target]:
    """Every real weight of a built model that has two axes or more, each once, in the model's own order."""
    return list(_candidates(model))


def _candidates(model: Any) -> Iterator[Target]:
    names = names_of(model)
    seen: set[int] = set()
    for layer in model._flatten_layers():
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            if id(variable) in seen or len(variable.shape) < 2 or not _is_real(variable):
                continue
            seen.add(id(variable))
            kind, view = _seen_as(layer, variable)
            yield Target(names[id(variable)], variable, kind, view)


def _is_real(variable: Any) -> bool:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if dtype.startswith("complex"):
        raise UnsupportedError(f"{variable.path} is {dtype}; only models of real weights can be pruned.")
    return "float" in dtype


def names_of(model: Any) -> dict[int, str]:
    """The name of each variable of a built model, by ``id``: the layers that it lies in, and its own, joined by ``/``.

    Keras' own paths tell where a variable was when it was made, which in a model that is read from a file may be
    another place (the layers of ``Bidirectional``).  Layers side by side may have the same name; the second one is told
    from the first by a number.
    """
    names: dict[int, str] = {}
    taken: set[str] = set()
    visited: set[int] = set()

    def visit(layer: Any, above: str) -> None:
        visited.add(id(layer))
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            if id(variable) in names:
                continue
            name = candidate = f"{above}{variable.name}"
            number = 1
            while candidate in taken:
                number += 1
                candidate = f"{name}#{number}"
            taken.add(candidate)
            names[id(variable)] = candidate
        for inner in layer._layers:
            if id(inner) not in visited:
                visit(inner, f"{above}{inner.name}/")

    visit(model, "")
    return names


def _seen_as(layer: Any, variable: Any) -> tuple[str, View]:
    """What kind of target a layer's own variable is, and its canonical view."""
    shape, name, kinds = tuple(variable.shape), variable.name, _class_names(layer)
    if name == "embeddings" and "Embedding" in kinds:
        return "embedding", View(tuple(range(len(shape))), shape)
    if name == "kernel" and "EinsumDense" in kinds:
        return "einsum", _einsum_view(layer.equation, shape)
    if name == "kernel" and "Dense" in kinds:
        return "dense", _last_first(shape)
    if name == "depthwise_kernel" or (name == "kernel" and "BaseDepthwiseConv" in kinds):
        return "depthwise", _depthwise_view(shape)
    if name == "kernel" and "BaseConvTranspose" in kinds:
        return "conv_transpose", _ordered(shape, (len(shape) - 2, len(shape) - 1, *range(len(shape) - 2)))
    if (name == "kernel" and "BaseConv" in kinds) or name == "pointwise_kernel":
        return "conv", _last_first(shape)
    if name in ("kernel", "recurrent_kernel") and any(cell in kinds for cell in _CELLS):
        return "recurrent", _last_first(shape)
    return "other", _last_first(shape)


def _class_names(layer: Any) -> set[str]:
    """By name: some of these classes have no public name."""
    return {cls.__name__ for cls in type(layer).__mro__}


def _ordered(shape: tuple[int, ...], order: tuple[int, ...]) -> View:
    return View(order, tuple(shape[axis] for axis in order))


def _last_first(shape: tuple[int, ...]) -> View:
    """Kernel axes, input, output: the layout of nearly everything in Keras."""
    axes = len(shape)
    return _ordered(shape, (axes - 1, axes - 2, *range(axes - 2)))


def _depthwise_view(shape: tuple[int, ...]) -> View:
    """Kernel axes, channel, multiplier: each channel has its own outputs, which see nothing else."""
    axes = len(shape)
    return View((axes - 2, axes - 1, *range(axes - 2)), (shape[-2] * shape[-1], 1, *shape[:-2]))


def _einsum_view(equation: str, shape: tuple[int, ...]) -> View:
    """Axes that the product sums over are inputs, all others outputs: a matrix, as that of a projection is.

    >>> _einsum_view("abc,cde->abde", (8, 2, 3))
    View(order=(1, 2, 0), folded=(6, 8))
    """
    operands, _, result = equation.replace("...", "").replace(" ", "").partition("->")
    kernel = operands.split(",")[1]
    outputs = [axis for axis, letter in enumerate(kernel) if letter in result]
    inputs = [axis for axis, letter in enumerate(kernel) if letter not in result]
    rows, columns = (math.prod(shape[axis] for axis in axes) for axes in (outputs, inputs))
    return View((*outputs, *inputs), (rows, columns))
