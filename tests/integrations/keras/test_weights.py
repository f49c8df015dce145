"""Weights as arrays, rounded and counted, and files of them."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import isogrid as ig
import isogrid.keras as ik
from integrations.keras import small
from isogrid.errors import TrainingError, UnsupportedError
from isogrid.formats.numbers import round_values
from isogrid.formats.safetensors import TensorFile
from isogrid.formats.sparse import SparseTensor
from isogrid.integrations.keras.weights import census, read, weights_of, write


def test_every_weight_is_there_once_and_comes_back() -> None:
    net = small.model()
    assert [weight.name for weight in weights_of(net)] == ["first/kernel", "first/bias", "last/kernel", "last/bias"]
    before = read(net)
    other = small.model(seed=1)
    assert not np.array_equal(read(other)["first/kernel"], before["first/kernel"])
    write(other, before)
    for name, array in read(other).items():
        assert np.array_equal(array, before[name])


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_rounding_is_that_of_the_files_with_a_scale_for_each_output(values: str) -> None:
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(4, 3, name="conv"), layers.Dense(5, name="dense")])
    ik.prune(net, ik.OneShot(0.5))
    conv, dense = (layer.get_weights()[0] for layer in net.layers)
    ik.quantize(net, values)  # type: ignore[arg-type]
    wanted = round_values(conv.transpose(3, 2, 0, 1), values).transpose(2, 3, 1, 0)  # type: ignore[arg-type]
    assert np.array_equal(net.layers[0].get_weights()[0], wanted)
    assert np.array_equal(net.layers[1].get_weights()[0], round_values(dense.T, values).T)  # type: ignore[arg-type]
    assert np.all(net.layers[0].get_weights()[0][conv == 0] == 0)


def test_what_cannot_be_rounded_leaves_the_model_as_it_is() -> None:
    net = small.model()
    net.layers[1].set_weights([np.full((16, 3), np.nan, np.float32), np.zeros(3)])
    before = read(net)
    with pytest.raises(TrainingError, match="last/kernel"):
        ik.quantize(net, "int8")
    for name, array in read(net).items():
        assert np.array_equal(array, before[name], equal_nan=True)
    half = keras.Sequential([keras.Input((3,)), layers.Dense(2, dtype="float16", name="half")])
    with pytest.raises(UnsupportedError, match="half/kernel is float16"):
        ik.quantize(half, "int8")


def test_the_file_counts_what_the_model_holds(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(3, name="last"),
        ]
    )
    ik.prune(net, ik.OneShot(0.75), ignore="last")
    ik.quantize(net, "int8")
    found = census(net, ignore="last")
    path = tmp_path / "model.safetensors"
    path.write_bytes(found.file)
    counted, measured = ig.inspect(path), ik.measure(net, ignore="last")
    for field in ("sparsity", "sparsity_of_model", "nonzeros", "parameters"):
        assert getattr(counted, field) == getattr(found, field) == getattr(measured, field), field
    stored = TensorFile(path)["first/kernel"]
    assert isinstance(stored, SparseTensor)
    assert stored.kind == "int8"
    assert np.array_equal(stored.to_dense(), net.layers[0].get_weights()[0].T)
