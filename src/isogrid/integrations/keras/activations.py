"""Sparse activations that Keras knows by name: ``Dense(100, activation="sparse_relu")``."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from isogrid.checks import is_number
from isogrid.errors import UsageError


def sparse_relu(x: Any, threshold: float = 0.0) -> Any:
    """``x`` where ``x > threshold``, else 0; the default is plain ReLU.  NaN goes through.

    As `isogrid.sparse_relu`: what passes is not shifted.

    Args:
        x: a floating tensor of any shape.
        threshold: a finite number >= 0 in units of ``x``.

    Returns:
        A tensor of the shape and dtype of ``x``.

    Raises:
        UsageError: ``threshold`` is negative or not finite.

    >>> ops.convert_to_numpy(sparse_relu(ops.array([-1.0, 0.2, 2.0]), 0.5)).tolist()
    [0.0, 0.0, 2.0]
    """
    _check_threshold("sparse_relu", threshold)
    x = ops.convert_to_tensor(x)
    return ops.where(x <= threshold, ops.zeros_like(x), x)


def sparse_tanh(x: Any, threshold: float = 0.5) -> Any:
    """``tanh(x)`` where ``|x| > threshold``, else 0.

    As `isogrid.sparse_tanh`, with a default so that it can be called by name: 0.5 makes zeros of 38 % of a standard
    normal input.  `SparseTanh` is the layer with a threshold of your own.

    Args:
        x: a floating tensor of any shape.
        threshold: a finite number >= 0 in units of ``x`` (not of its tanh).

    Returns:
        A tensor of the shape and dtype of ``x``.

    Raises:
        UsageError: ``threshold`` is negative or not finite.

    >>> [round(float(value), 3) for value in sparse_tanh(ops.array([-0.4, 0.0, 2.0]))]
    [0.0, 0.0, 0.964]
    """
    _check_threshold("sparse_tanh", threshold)
    x = ops.convert_to_tensor(x)
    if threshold == 0:  # plain tanh, also in its gradient at 0
        return ops.tanh(x)
    return ops.tanh(ops.where(ops.abs(x) <= threshold, ops.zeros_like(x), x))


class _Thresholded(keras.layers.Layer):
    """An activation with one threshold."""

    def __init__(self, threshold: float, **options: Any) -> None:
        super().__init__(**options)
        _check_threshold(type(self).__name__, threshold)
        self.threshold = float(threshold)
        self.supports_masking = True
        self.built = True

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The options, for Keras' files."""
        return {**super().get_config(), "threshold": self.threshold}


@keras.saving.register_keras_serializable("isogrid")
class SparseReLU(_Thresholded):
    """`sparse_relu` as a layer.

    Args:
        threshold: a finite number >= 0 in units of the input.
        options: of every Keras layer, such as ``name``.

    Raises:
        UsageError: ``threshold`` is negative or not finite.

    >>> ops.convert_to_numpy(SparseReLU(0.5)(ops.array([[0.2, 2.0]]))).tolist()
    [[0.0, 2.0]]
    """

    def __init__(self, threshold: float = 0.0, **options: Any) -> None:
        super().__init__(threshold, **options)

    def call(self, inputs: Any) -> Any:
        """Apply `sparse_relu`."""
        return sparse_relu(inputs, self.threshold)


@keras.saving.register_keras_serializable("isogrid")
class SparseTanh(_Thresholded):
    """`sparse_tanh` as a layer.

    Args:
        threshold: a finite number >= 0 in units of the input.
        options: of every Keras layer, such as ``name``.

    Raises:
        UsageError: ``threshold`` is negative or not finite.

    >>> ops.convert_to_numpy(SparseTanh(0.5)(ops.array([[0.2, -0.4]]))).tolist()
    [[0.0, 0.0]]
    """

    def __init__(self, threshold: float = 0.5, **options: Any) -> None:
        super().__init__(threshold, **options)

    def call(self, inputs: Any) -> Any:
        """Apply `sparse_tanh`."""
        return sparse_tanh(inputs, self.threshold)


def _check_threshold(owner: str, threshold: Any) -> None:
    if not (is_number(threshold) and threshold >= 0):
        raise UsageError(f"{owner} got threshold={threshold!r}; accepted is a finite number >= 0.")


def register() -> None:
    """Make the functions known to Keras' files, and to ``activation="..."`` by their plain names."""
    # Keras has no public way to add a name that a layer's activation= accepts.
    from keras.src.activations import ALL_OBJECTS_DICT

    for function in (sparse_relu, sparse_tanh):
        keras.saving.register_keras_serializable("isogrid")(function)
        ALL_OBJECTS_DICT[function.__name__] = function
