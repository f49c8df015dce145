"""A second model of the same structure, and compiling it as the first one was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from isogrid.errors import UnsupportedError, UsageError, first_line
from isogrid.integrations.keras.riding import inner_optimizer


def copy_of(model: Any, inputs: Any) -> Any:
    """A built copy of `model`, not compiled; `inputs` build it where the model itself is not built yet.

    Raises:
        UnsupportedError: a subclassed model that says not how it is made (``get_config``).
        UsageError: the model does not take the inputs.
    """
    try:
        copy = keras.models.clone_model(model)
    except Exception as problem:
        raise UnsupportedError(
            f"{type(model).__name__} cannot be copied: {first_line(problem)}; accepted are sequential and functional "
            "models, and subclassed ones with get_config()."
        ) from problem
    try:
        copy(keras.tree.map_structure(keras.ops.convert_to_tensor, inputs))
    except Exception as problem:
        shapes = ", ".join(str(tuple(part.shape)) for part in keras.tree.flatten(inputs))
        raise UsageError(f"The model does not take the training inputs, {shapes}: {first_line(problem)}.") from problem
    if model.built:
        weights = model.get_weights()
        if [array.shape for array in weights] != [tuple(variable.shape) for variable in copy.weights]:
            raise UnsupportedError(f"{type(model).__name__} cannot be copied: get_config() gives other layers.")
        copy.set_weights(weights)
    return copy


class Compiled:
    """How a model was compiled, or is to be.

    Args:
        model: the user's, compiled or not.
        loss, optimizer: for a model that is not compiled; the optimiser is Adam by default.

    Raises:
        UsageError: a model that is not compiled and no loss, or a compiled one and a loss or an optimiser.
    """

    def __init__(self, model: Any, loss: Any = None, optimizer: Any = None) -> None:
        self.compiled = bool(model.compiled)
        if self.compiled and (loss is not None or optimizer is not None):
            raise UsageError("optimize() got a loss or an optimizer beside a compiled model, which has its own.")
        if not self.compiled and loss is None:
            raise UsageError("optimize() got a model that is not compiled; compile it, or pass loss=.")
        self.options: dict[str, Any] = {"loss": loss}
        if self.compiled:
            self.options = {name: value for name, value in model._compile_config.config.items() if name != "optimizer"}
        self._optimizer = keras.optimizers.get(model.optimizer if self.compiled else optimizer or "adam")

    @property
    def rate(self) -> float | None:
        """The optimiser's own learning rate; None where it has a schedule."""
        rate = inner_optimizer(self._optimizer).get_config()["learning_rate"]
        return None if isinstance(rate, Mapping) else float(rate)

    def apply(self, model: Any, rate: Any = None) -> None:
        """Compile `model` with an optimiser that knows nothing yet, at a learning rate (or schedule) or its own."""
        optimizer = _renewed(self._optimizer, rate)
        options = {**self.options, **{name: _fresh(self.options.get(name)) for name in ("metrics", "weighted_metrics")}}
        model.compile(optimizer=optimizer, **{name: value for name, value in options.items() if value is not None})


def _renewed(optimizer: Any, rate: Any) -> Any:
    """The same optimiser, as new.  Its rate is set in the configuration: once it is there, it cannot be taken out."""
    config = optimizer.get_config()
    if (inner := getattr(optimizer, "inner_optimizer", None)) is not None:
        config["inner_optimizer"] = keras.optimizers.serialize(_renewed(inner, rate))
    elif rate is not None:
        config["learning_rate"] = keras.optimizers.schedules.serialize(rate)
    return type(optimizer).from_config(config)


def _fresh(metrics: Any) -> Any:
    """The same metrics, with counts of their own."""

    def anew(metric: Any) -> Any:
        return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.Metric) else metric

    return keras.tree.map_structure(anew, metrics)
