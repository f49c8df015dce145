"""The metric that a model was compiled with, sample by sample."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import isogrid as ig
from isogrid.errors import UsageError
from isogrid.integrations.keras.data import Data
from isogrid.integrations.keras.judging import Judge
from isogrid.metrics import Outcomes, value_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6)).astype(np.float32)
LABELS = (RNG.random(50) * 3).astype(np.int64)
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
BITS = (LABELS > 0).astype(np.float32)[:, None]
NUMBERS = RNG.normal(size=(50, 3)).astype(np.float32)


def compiled(loss: Any, outputs: int = 3, activation: str | None = None, **options: Any) -> Any:
    keras.utils.set_random_seed(0)
    penalty = keras.regularizers.L2(0.1)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(outputs, activation=activation, kernel_regularizer=penalty)]
    )
    model.compile("sgd", loss, **options)
    return model


def judged(model: Any, y: Any, wanted: Any = None) -> tuple[Judge, Any]:
    data = Data("test", (X, y), batch_size=16)
    judge = Judge(model, data.first(), wanted)
    return judge, judge(model, data)


@pytest.mark.parametrize(
    ("loss", "y", "outputs", "activation", "metrics", "name"),
    [
        ("sparse_categorical_crossentropy", LABELS, 3, "softmax", ["accuracy"], "accuracy"),
        ("categorical_crossentropy", ONE_HOT, 3, "softmax", ["acc"], "acc"),
        ("binary_crossentropy", BITS, 1, "sigmoid", ["accuracy"], "accuracy"),
        ("mse", NUMBERS, 3, None, ["mae", "mse"], "mae"),
        ("mse", NUMBERS, 3, None, [keras.metrics.CosineSimilarity(name="cosine")], "cosine"),
    ],
)
def test_the_mean_of_the_scores_is_what_keras_says(
    loss: str, y: Any, outputs: int, activation: str | None, metrics: list[Any], name: str
) -> None:
    model = compiled(loss, outputs, activation, metrics=metrics)
    judge, measured = judged(model, y)
    wanted = model.evaluate(X, y, verbose=0, return_dict=True)[name]
    assert isinstance(measured, Outcomes)
    assert measured.samples == 50
    assert measured.value == pytest.approx(wanted, rel=1e-5)
    assert judge.metric.higher_is_better == (name != "mae")
    assert judge.metric.percent == (name in ("accuracy", "acc"))
    if outputs > 1 and judge.metric.percent:
        assert measured.labels is not None
        assert np.array_equal(measured.labels, LABELS)
        assert np.array_equal(measured.scores, measured.predictions == measured.labels)


def test_without_metrics_a_cross_entropy_means_accuracy() -> None:
    logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(logits)
    judge, measured = judged(model, LABELS)
    assert judge.metric == ig.metrics.ACCURACY
    assert value_of(measured) == np.mean(model.predict(X, verbose=0).argmax(axis=1) == LABELS)
    bits = compiled(keras.losses.BinaryCrossentropy(from_logits=True), 1)
    assert value_of(judged(bits, BITS)[1]) == np.mean((bits.predict(X, verbose=0) > 0) == BITS)


def test_else_the_loss_counts_without_its_penalties() -> None:
    model = compiled("mse")
    judge, measured = judged(model, NUMBERS)
    assert judge.metric == ig.Metric("loss", higher_is_better=False)
    assert isinstance(measured, Outcomes)
    assert measured.value == pytest.approx(np.mean((model.predict(X, verbose=0) - NUMBERS) ** 2), rel=1e-5)
    assert measured.value < model.evaluate(X, NUMBERS, verbose=0)


def test_a_metric_that_no_sample_has_is_one_number() -> None:
    model = compiled("binary_crossentropy", 1, "sigmoid", metrics=["accuracy", keras.metrics.AUC(name="auc")])
    judge, measured = judged(model, BITS, "auc")
    assert judge.metric.higher_is_better
    assert measured == pytest.approx(model.evaluate(X, BITS, verbose=0, return_dict=True)["auc"], abs=1e-6)
    assert isinstance(measured, float)


def test_several_outputs_and_sample_weights_give_one_number() -> None:
    keras.utils.set_random_seed(0)
    given = keras.Input((6,))
    model = keras.Model(given, [layers.Dense(3, name="one")(given), layers.Dense(3, name="two")(given)])
    model.compile("sgd", "mse")
    judge, measured = judged(model, [NUMBERS, NUMBERS])
    assert judge.metric.name == "loss"
    assert measured == pytest.approx(
        model.evaluate(X, [NUMBERS, NUMBERS], verbose=0, return_dict=True)["loss"], rel=1e-5
    )
    weighted = compiled("mse", weighted_metrics=["mae"])
    weights = np.arange(50, dtype=np.float32)
    data = Data("test", (X, NUMBERS, weights), batch_size=16)
    found = Judge(weighted, data.first(), None)(weighted, data)
    wanted = weighted.evaluate(X, NUMBERS, sample_weight=weights, verbose=0, return_dict=True)["mae"]
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_direction_that_nobody_knows_is_asked_for() -> None:
    def distance(truth: Any, answer: Any) -> Any:
        return keras.ops.sum(keras.ops.abs(truth - answer), axis=-1)

    model = compiled("mse", metrics=[distance])
    with pytest.raises(UsageError, match=r"more of distance is better; pass metric=isogrid\.Metric\('distance'"):
        judged(model, NUMBERS)
    told = ig.Metric("distance", higher_is_better=False)
    judge, measured = judged(model, NUMBERS, told)
    assert judge.metric is told
    assert value_of(measured) == pytest.approx(
        np.abs(model.predict(X, verbose=0) - NUMBERS).sum(axis=1).mean(), rel=1e-5
    )
