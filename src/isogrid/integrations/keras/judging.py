"""Measuring a Keras model by its own compiled metric, sample by sample where the metric has a value for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from isogrid.errors import UsageError
from isogrid.integrations.keras.data import Data
from isogrid.metrics import ACCURACY, Metric, Outcomes

_EACH = Callable[[Any, Any], Any]


class Judge:
    """Reads one number of a compiled model, as outcomes of the samples where that is possible.

    What is read is the metric that is asked for, else the first one the model was compiled with; a model compiled
    without any is judged by its accuracy if its loss is a cross-entropy, and else by its loss without penalties.
    Metrics and losses that are a mean over the samples (accuracies, errors) give each sample's value, and so a paired
    interval; others (AUC, recall, several outputs, sample weights) are one number for the split, as
    ``model.evaluate`` gives it.

    Args:
        model: compiled and built.
        batch: ``(x, y)`` to try it on.
        wanted: the name of a logged metric, a `Metric` of that name that says how it is read, or None.

    Raises:
        UsageError: a name that is not logged, or a metric of unknown direction.
    """

    def __init__(self, model: Any, batch: tuple[Any, ...], wanted: Metric | str | None) -> None:
        logged = model.evaluate(
            *batch[:2], batch_size=len(keras.tree.flatten(batch[1])[0]), verbose=0, return_dict=True
        )
        answer = model.predict_on_batch(batch[0])
        self._single = not isinstance(answer, dict | list | tuple)
        own = {metric.name: metric for metric in _metrics(model)}
        loss = _loss(model)
        asked = wanted.name if isinstance(wanted, Metric) else wanted
        others = [name for name in logged if name != "loss" and not name.endswith("_loss")]
        name = asked or (others[0] if others else "loss")
        self._log: str | None = name
        self._each: _EACH | None = None
        direction: bool | None = None
        accuracy = _accuracy_for(loss) if self._single else None
        if name in own:
            self._each, direction = _each_of(own[name]), _direction(own[name])
        elif accuracy is not None and name in ("accuracy", "loss") and (asked == "accuracy" or asked is None):
            name, self._each, direction, self._log = "accuracy", accuracy, True, None
        elif name == "loss":
            direction = False
            self._each = loss.call if self._single and isinstance(loss, keras.losses.Loss) else None
        elif name not in logged:
            raise UsageError(f"optimize() got metric={asked!r}, which is not logged; accepted are {', '.join(logged)}.")
        if not self._single:
            self._each = None
        self.metric = wanted if isinstance(wanted, Metric) else _described(name, direction)

    def __call__(self, model: Any, data: Data) -> Outcomes | float:
        """The metric of `model`, compiled as the one before, on a split."""
        if self._each is None:
            return self._whole(model, data)
        scores, predicted, labels = [], [], []
        for batch in data.batches():
            if len(batch) > 2 and self._log is not None:
                return self._whole(model, data)
            answer = model.predict_on_batch(batch[0])
            truth = keras.tree.flatten(batch[1])[0]
            each = self._each(keras.ops.convert_to_tensor(truth), keras.ops.convert_to_tensor(answer))
            values = np.asarray(keras.ops.convert_to_numpy(each), dtype=np.float64)
            scores.append(values.reshape(len(answer), -1).mean(axis=1))
            if self.metric.name == "accuracy" and (classes := _classes(truth, answer)) is not None:
                predicted.append(classes[0])
                labels.append(classes[1])
        if len(labels) == len(scores):
            return Outcomes(np.concatenate(scores), np.concatenate(predicted), np.concatenate(labels))
        return Outcomes(np.concatenate(scores))

    def _whole(self, model: Any, data: Data) -> float:
        """One number, over all batches."""
        assert self._log is not None
        logs = model.evaluate(data.batches(), steps=data.steps, verbose=0, return_dict=True)
        return float(logs[self._log])


def _metrics(model: Any) -> list[Any]:
    """The metrics that the model was compiled with, once they are built."""
    found: list[Any] = []
    for metric in model.metrics:
        found += getattr(metric, "metrics", [])
    return found


def _loss(model: Any) -> Any:
    """The loss as an object, None where there is not exactly one."""
    given = model._compile_config.config.get("loss")
    if given is None or isinstance(given, list | tuple | dict):
        return None
    loss = keras.losses.get(given)
    if isinstance(loss, keras.losses.Loss) or not callable(loss):
        return loss
    wrapped = keras.losses.Loss(name=given if isinstance(given, str) else getattr(loss, "__name__", "loss"))
    wrapped.call = loss
    return wrapped


def _accuracy_for(loss: Any) -> _EACH | None:
    """The accuracy that belongs to a cross-entropy."""
    name = str(getattr(loss, "name", "")).lower()
    if name.endswith("sparse_categorical_crossentropy"):
        return keras.metrics.sparse_categorical_accuracy
    if name.endswith("categorical_crossentropy"):
        return keras.metrics.categorical_accuracy
    if name.endswith("binary_crossentropy"):
        logits = bool(loss.get_config().get("from_logits", False))
        return lambda truth, answer: keras.metrics.binary_accuracy(truth, answer, threshold=0.0 if logits else 0.5)
    return None


def _each_of(metric: Any) -> _EACH | None:
    """The function that gives each sample's value, where the metric is the mean of those."""
    if not isinstance(metric, keras.metrics.MeanMetricWrapper):
        return None
    return lambda truth, answer: metric._fn(truth, answer, **metric._fn_kwargs)


def _direction(metric: Any) -> bool | None:
    """Whether more is better, as far as Keras knows."""
    known = getattr(metric, "_direction", None)
    return None if known is None else known == "up"


def _described(name: str, higher_is_better: bool | None) -> Metric:
    if name in ("accuracy", "acc") or name.endswith("_accuracy"):
        return ACCURACY
    if higher_is_better is None:
        raise UsageError(
            f"optimize() cannot tell whether more of {name} is better; pass metric=isogrid.Metric({name!r}, "
            "higher_is_better=...)."
        )
    return Metric(name, higher_is_better=higher_is_better)


def _classes(truth: NDArray[Any], answer: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Predicted and true classes of a batch, where each sample has one."""
    if answer.ndim != 2 or answer.shape[1] < 2:
        return None
    if truth.shape == answer.shape:
        return answer.argmax(axis=1), truth.argmax(axis=1)
    return (answer.argmax(axis=1), truth.reshape(-1)) if truth.size == len(answer) else None
