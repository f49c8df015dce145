"""How far one step of a Keras optimiser moves a weight for each unit of gradient: the proximal step's step size.

As in `isogrid.sparsify.step_size`: momentum, whose steps add up to ``1 / (1 - momentum)`` gradients, counts, and
adaptive optimisers have a step size for each weight (Yun, Lozano and Yang 2021, arXiv:2102.10828), where a weight that
no gradient has reached is given the mean metric of its tensor.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from isogrid.errors import UnsupportedError

_ACCEPTED = "SGD, Adam, AdamW, RMSprop and Adagrad"


def check_optimizer(optimizer: Any) -> None:
    """Raise ``UnsupportedError`` for an optimiser whose step size is not known."""
    known = (keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.RMSprop, keras.optimizers.Adagrad)
    if not isinstance(optimizer, known):
        raise UnsupportedError(
            f"Aware's proximal step does not know the step size of {type(optimizer).__name__}; accepted are "
            f"{_ACCEPTED}."
        )


def step_size(optimizer: Any, variable: Any, rate: Any, taken: Any) -> Any:
    """The step size of the step that `optimizer` just took: a scalar, or an array of the variable's shape.

    Args:
        optimizer: one that `check_optimizer` accepts.
        variable: the weight that moved.
        rate: the learning rate of the step, float32.
        taken: the number of steps taken, with this one, float32.
    """
    index = optimizer._get_variable_index(variable)
    if isinstance(optimizer, keras.optimizers.SGD):
        return rate / (1 - optimizer.momentum)
    if isinstance(optimizer, keras.optimizers.Adam):
        squares = optimizer._velocity_hats[index] if optimizer.amsgrad else optimizer._velocities[index]
        correction = 1 - ops.power(ops.cast(optimizer.beta_2, "float32"), taken)
        return _over(rate, ops.sqrt(squares / correction) + optimizer.epsilon, squares)
    if isinstance(optimizer, keras.optimizers.RMSprop):
        squares = spread = optimizer._velocities[index]
        if optimizer.centered:
            spread = ops.maximum(squares - ops.square(optimizer._average_gradients[index]), 0)
        return _over(rate / (1 - optimizer.momentum), ops.sqrt(spread + optimizer.epsilon), squares)
    squares = optimizer._accumulators[index]
    return _over(rate, ops.sqrt(squares + optimizer.epsilon), squares)


def _over(rate: Any, divisor: Any, squares: Any) -> Any:
    """``rate / divisor``, where `squares` is zero that of the mean divisor, and 0 where it is zero everywhere."""
    seen = ops.cast(squares, "float32") > 0
    counted = ops.cast(seen, "float32")
    touched = ops.sum(counted)
    mean = ops.sum(counted * ops.cast(divisor, "float32")) / ops.maximum(touched, 1)
    whole = ops.where(seen, divisor, ops.cast(ops.maximum(mean, 1e-30), divisor.dtype))
    return ops.where(touched > 0, rate / whole, ops.zeros_like(whole))
