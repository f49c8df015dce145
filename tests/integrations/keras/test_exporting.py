"""Keras models as ONNX files: the same answers, sparse weights, and the packed runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import isogrid as ig
import isogrid.keras as ik
from integrations.keras import small
from isogrid.errors import FormatError, MissingDependencyError, UnsupportedError, UsageError
from isogrid.runtime.session import Session


def convolutional(sparsity: float) -> tuple[Any, Any]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dense(20, activation="sparse_relu", name="hidden"),
            layers.Dense(3, activation="softmax", name="last"),
        ]
    )
    ik.prune(model, ik.OneShot(sparsity))
    return model, np.random.default_rng(1).normal(size=(5, 8, 8, 2)).astype(np.float32)


def answers(model: Any, *inputs: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(model(*inputs, training=False)))


def test_the_file_answers_as_keras_does_and_is_small(tmp_path: Path) -> None:
    model, x = convolutional(0.9)
    before = model.get_weights()
    sizes = {}
    for values in ("fp32", "fp16", "int8"):
        path = tmp_path / f"{values}.onnx"
        sizes[values] = ik.export(model, path, values=values)
        assert sizes[values] == path.stat().st_size
        for rows in (x, x[:1]):
            (found,) = Session(path).run([rows])
            assert np.allclose(found, answers(model, rows), atol=1e-5 if values == "fp32" else 0.02)
    dense, _ = convolutional(0.0)
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"] < ik.export(dense, tmp_path / "dense.onnx") / 2
    for array, was in zip(model.get_weights(), before, strict=True):
        assert np.array_equal(array, was)
    assert float(ig.inspect(tmp_path / "fp32.onnx").provenance["isogrid.sparsity"]) == ik.measure(model).sparsity


def test_a_packed_file_answers_the_same_on_native_kernels(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((256,)), layers.Dense(512, activation="relu"), layers.Dense(256)])
    ik.prune(model, ik.OneShot(0.95))
    x = np.random.default_rng(0).normal(size=(16, 256)).astype(np.float32)
    standard = ik.export(model, tmp_path / "model.onnx", x)
    packed = ik.export(model, tmp_path / "packed.onnx", x, packed=True)
    assert packed < standard
    session = Session(tmp_path / "packed.onnx")
    assert np.allclose(session.run([x])[0], answers(model, x), atol=1e-4)
    import onnx

    nodes = onnx.load(str(tmp_path / "packed.onnx")).graph.node
    assert sum(node.domain == "isogrid" for node in nodes) == 2


def test_a_trained_model_can_be_exported(tmp_path: Path) -> None:
    """TensorFlow saves no optimiser out of which variables were taken, unless it is told that all is well."""
    net = small.model()
    small.fit(net, ik.Sparsify(ik.Gradual(0.75)))
    x = small.data()[0]
    ik.export(net, tmp_path / "model.onnx")
    assert np.allclose(Session(tmp_path / "model.onnx").run([x])[0], answers(net, x), atol=1e-5)


def test_whole_numbers_several_inputs_and_outputs(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    words, facts = keras.Input((5,), dtype="int32", name="words"), keras.Input((3,), name="facts")
    read = layers.Flatten(name="flat")(layers.Embedding(11, 4, name="embedding")(words))
    both = layers.Concatenate(name="both")([read, facts])
    model = keras.Model([words, facts], [layers.Dense(2, name="one")(both), layers.Dense(3, name="two")(both)])
    given = [np.arange(10, dtype=np.int32).reshape(2, 5), np.ones((2, 3), np.float32)]
    ik.export(model, tmp_path / "model.onnx", given)
    wanted = [np.asarray(keras.ops.convert_to_numpy(part)) for part in model(given)]
    found = Session(tmp_path / "model.onnx").run(given)
    for left, right in zip(found, wanted, strict=True):
        assert np.allclose(left, right, atol=1e-6)


def test_what_cannot_be_exported_is_one_sentence_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match="needs a Keras model that is built"):
        ik.export(keras.Sequential([layers.Dense(2)]), path)
    with pytest.raises(UsageError, match=r"has the shape \(None, None, 3\); give an example"):
        ik.export(keras.Sequential([keras.Input((None, 3)), layers.Dense(2)]), path)
    net = small.model()
    with pytest.raises(UsageError, match="number format"):
        ik.export(net, path, values="int4")  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(type(net), "export", lambda *_, **__: (_ for _ in ()).throw(ValueError("no such operation")))
        with pytest.raises(UnsupportedError, match=r"Keras cannot export this Sequential to ONNX: .*no such operation"):
            ik.export(net, path)
    with monkeypatch.context() as patch:
        patch.setattr("isogrid.integrations.keras.exporting.TOLERANCE", -1.0)
        with pytest.raises(FormatError, match="differs from the model"):
            ik.export(net, path)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingDependencyError, match="pip install"):
            ik.export(net, path)
    assert not path.exists()
