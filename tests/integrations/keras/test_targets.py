"""Which weights of a Keras model may be pruned, and that each is seen as PyTorch stores it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from isogrid.errors import TargetError, UnsupportedError, UsageError
from isogrid.keras import find_targets


def built(*stack: Any, shape: tuple[int, ...]) -> Any:
    return keras.Sequential([keras.Input(shape), *stack])


def names(model: Any, **options: Any) -> list[str]:
    return [target.name for target in find_targets(model, **options)]


@pytest.mark.parametrize(
    ("layer", "shape", "found"),
    [
        (layers.Dense(4, name="a"), (6,), {"a/kernel": (4, 6)}),
        (layers.Conv1D(4, 3, name="a"), (9, 6), {"a/kernel": (4, 6, 3)}),
        (layers.Conv2D(4, (3, 2), name="a"), (9, 9, 6), {"a/kernel": (4, 6, 3, 2)}),
        (layers.Conv3D(4, (3, 2, 1), name="a"), (5, 5, 5, 6), {"a/kernel": (4, 6, 3, 2, 1)}),
        (layers.Conv2D(4, 3, groups=2, name="a"), (9, 9, 6), {"a/kernel": (4, 3, 3, 3)}),
        (layers.Conv2DTranspose(4, (3, 2), name="a"), (9, 9, 6), {"a/kernel": (4, 6, 3, 2)}),
        (layers.SeparableConv2D(4, 3, name="a"), (9, 9, 6), {"a/pointwise_kernel": (4, 6, 1, 1)}),
        (layers.EinsumDense("abc,cd->abd", (None, 5), name="a"), (4, 6), {"a/kernel": (5, 6)}),
        (layers.EinsumDense("...c,cde->...de", (2, 5), name="a"), (4, 6), {"a/kernel": (10, 6)}),
        (
            layers.LSTM(4, name="a"),
            (5, 6),
            {"a/lstm_cell/kernel": (16, 6), "a/lstm_cell/recurrent_kernel": (16, 4)},
        ),
        (layers.GRU(4, name="a"), (5, 6), {"a/gru_cell/kernel": (12, 6), "a/gru_cell/recurrent_kernel": (12, 4)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else "",
)
def test_kernels_are_targets_in_canonical_shape(
    layer: Any, shape: tuple[int, ...], found: dict[str, tuple[int, ...]]
) -> None:
    model = built(layer, shape=shape)
    assert {target.name: target.shape for target in find_targets(model)} == found
    for target in find_targets(model):
        array = target.read(target.variable)
        target.write(target.variable, array + 1)
        assert np.array_equal(target.read(target.variable), array + 1)


def test_both_directions_are_targets() -> None:
    model = built(layers.Bidirectional(layers.LSTM(3), name="both"), shape=(5, 4))
    assert len(names(model)) == 4
    assert names(model, targets=r".*backward_lstm.*") == [
        "both/backward_lstm/lstm_cell/kernel", "both/backward_lstm/lstm_cell/recurrent_kernel",
    ]  # fmt: skip


def test_attention_is_seen_as_projections() -> None:
    given = keras.Input((5, 8))
    model = keras.Model(given, layers.MultiHeadAttention(2, 3, name="attention")(given, given))
    assert {target.name: target.shape for target in find_targets(model)} == {
        "attention/query/kernel": (6, 8),
        "attention/key/kernel": (6, 8),
        "attention/value/kernel": (6, 8),
        "attention/attention_output/kernel": (8, 6),
    }
    query = model.layers[1].query_dense
    target = find_targets(model, targets="attention/query")[0]
    x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype("f")
    flat = x @ target.read(target.variable).T + np.asarray(keras.ops.convert_to_numpy(query.bias)).reshape(-1)
    wanted = np.asarray(keras.ops.convert_to_numpy(query(x)))
    assert np.allclose(flat.reshape(wanted.shape), wanted, atol=1e-5)


def test_the_canonical_view_is_what_pytorch_holds() -> None:
    kernel = np.arange(3 * 2 * 5 * 4, dtype=np.float32).reshape(3, 2, 5, 4)
    layer = layers.Conv2D(4, (3, 2), use_bias=False, name="a")
    model = built(layer, shape=(9, 9, 5))
    layer.set_weights([kernel])
    (target,) = find_targets(model)
    assert np.array_equal(target.read(target.variable), kernel.transpose(3, 2, 0, 1))


def test_embeddings_and_depthwise_kernels_are_named() -> None:
    model = built(
        layers.Reshape((4, 4, 3)), layers.DepthwiseConv2D(2, depth_multiplier=2, name="deep"), layers.Flatten(),
        layers.Dense(2, name="dense"), shape=(48,),
    )  # fmt: skip
    assert names(model) == ["dense/kernel"]
    (deep,) = find_targets(model, targets="deep")
    assert deep.shape == (6, 1, 2, 2)
    words = built(layers.Embedding(9, 4, name="words"), layers.Flatten(), layers.Dense(2, name="dense"), shape=(3,))
    assert names(words) == ["dense/kernel"]
    assert names(words, embeddings=True) == names(words, targets=["words", "dense"])


def test_norms_and_biases_are_none() -> None:
    model = built(layers.Dense(4, name="a"), layers.BatchNormalization(), layers.LayerNormalization(), shape=(6,))
    assert names(model) == ["a/kernel"]


def test_nested_and_subclassed_models_are_searched() -> None:
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = layers.Dense(3, name="first")
            self.inner = keras.Sequential([layers.Dense(2, name="second")], name="inner")

        def call(self, x: Any) -> Any:
            return self.inner(self.first(x))

    model = Model()
    with pytest.raises(UsageError, match=r"^The model has no weights yet; build it with"):
        find_targets(model)
    model(np.zeros((1, 4), "f"))
    assert names(model) == ["first/kernel", "inner/second/kernel"]


def test_a_layer_used_twice_is_one_target_and_a_name_used_twice_is_two() -> None:
    shared = layers.Dense(4, name="shared")
    model = built(shared, shared, shape=(4,))
    assert names(model) == ["shared/kernel"]

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = layers.Dense(4, name="same"), layers.Dense(4, name="same")

        def call(self, x: Any) -> Any:
            return self.other(self.one(x))

    model = Model()
    model(np.zeros((1, 4), "f"))
    assert sorted(names(model)) == ["same/kernel", "same/kernel#2"]


def test_a_model_from_a_file_and_a_clone_have_the_same_names(tmp_path: Path) -> None:
    """Keras' own paths of what lies in `Bidirectional` or in a nested model are others then."""
    inner = keras.Sequential([keras.Input((5, 4)), layers.Dense(4, name="dense")], name="inner")
    given = keras.Input((5, 4))
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both")(inner(given))
    x = layers.TimeDistributed(layers.Dense(4, name="dense"), name="each")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    model = keras.Model(given, layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], name="cells")(x))
    model.save(tmp_path / "model.keras")
    found = names(model)
    assert {"inner/dense/kernel", "both/forward_lstm/lstm_cell/kernel", "each/dense/kernel"} <= set(found)
    assert len(set(found)) == len(found) == 14
    for other in (keras.models.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)):
        assert names(other) == found
        assert names(other, targets="both") == names(model, targets="both")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "frist"}, r"targets entry 'frist' matches no weight .* for example first/kernel"),
        ({"ignore": "nothing"}, r"ignore entry 'nothing' matches no weight"),
        ({"ignore": "first"}, r"No weight of .* can be pruned"),
    ],
)
def test_what_matches_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        find_targets(built(layers.Dense(3, name="first"), shape=(4,)), **options)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^Got a dict where a Keras model is accepted\.$"):
        find_targets({})


def test_complex_weights_are_refused() -> None:
    model = built(layers.Dense(3, name="first"), shape=(4,))
    model.layers[0].kernel._dtype = "complex64"
    with pytest.raises(UnsupportedError, match=r"is complex64; only models of real weights"):
        find_targets(model)
