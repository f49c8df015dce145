"""Sparse training by a callback: exact counts, zeros that hold, files, resuming, and what surrounds a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import isogrid.keras as ik
from integrations.keras import small
from isogrid.errors import SparsifierError, TargetError, UnsupportedError, UsageError
from isogrid.integrations.keras.step_size import step_size
from isogrid.patterns import active_count

SIZE = small.INPUTS * 16 + 16 * small.OUTPUTS
SPARSITY = 0.8
LAST = active_count(SIZE, SPARSITY)
METHODS = [
    ik.Gradual(SPARSITY, delta_t=3),
    ik.Static(SPARSITY),
    ik.Trigger(SPARSITY, delta_t=2),
    ik.Aware(SPARSITY, delta_t=2, penalty=ik.L1(1e-3)),
    ik.SET(SPARSITY, delta_t=4),
    ik.RigL(SPARSITY, delta_t=4),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
only_compiled = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras refuses steps_per_execution and jit_compile on PyTorch"
)


class Watching(keras.callbacks.Callback):
    """Counts active weights at the end of each epoch, and looks that pruned ones and their momentum are zero."""

    def __init__(self, sparsify: Any) -> None:
        super().__init__()
        self.sparsify = sparsify
        self.active: list[int] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.active.append(sum(int(mask.sum()) for mask in self.sparsify.masks.values()))
        for layer in self.sparsify.state.layers:
            assert not layer.weight[~layer.mask].any()
            for slot in layer.slots:
                assert not layer.target.read(slot)[~layer.mask].any()


def expected(method: Any, epochs: int, steps: int) -> list[int]:
    """How many weights are active at the end of each epoch."""
    if not isinstance(method, ik.Gradual):
        return []
    counts = []
    for epoch in range(1, epochs + 1):
        due = [step for step in range(1, epoch * steps + 1) if step == 30 or (step < 30 and step % 3 == 0)]
        counts.append(active_count(SIZE, method.schedule.value(due[-1] / (epochs * steps), 0.0, SPARSITY)))
    return counts


@every_method
def test_the_count_is_exact_at_each_epoch(method: Any, tmp_path: Path) -> None:
    net = small.model()
    sparsify = ik.Sparsify(method)
    watching = Watching(sparsify)
    history = small.fit(net, sparsify, watching).history
    assert watching.active[-1] == LAST
    if counts := expected(method, 4, 10):
        assert watching.active == counts
    if isinstance(method, ik.Static | ik.SET | ik.RigL):
        assert watching.active == [LAST] * 4
    assert [round((1 - share) * SIZE) for share in history["mask_sparsity"]] == watching.active
    assert sparsify.report is not None
    assert sparsify.report == ik.measure(net)
    assert sparsify.report.sparsity >= SPARSITY
    net.save(tmp_path / "model.keras")
    assert ik.measure(keras.models.load_model(tmp_path / "model.keras")) == sparsify.report


@every_method
def test_a_training_resumes_from_a_saved_model(method: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    whole = small.model()
    straight = ik.Sparsify(method, seed=1)
    saving = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: whole.save(path) if epoch == 1 else None)
    small.fit(whole, straight, saving)
    net = keras.models.load_model(path)
    assert type(net.optimizer) is type(whole.optimizer)
    again = ik.Sparsify(method, seed=1, resume=path)
    watching = Watching(again)
    small.fit(net, again, watching, initial_epoch=2)
    assert watching.active[-1] == LAST
    for name, mask in straight.masks.items():
        assert np.array_equal(again.masks[name], mask)
        assert np.array_equal(small.kernels(net)[name], small.kernels(whole)[name])


@only_compiled
@every_method
@pytest.mark.parametrize("jit_compile", [True, False])
def test_several_steps_in_one_execution_end_exactly(method: Any, jit_compile: bool) -> None:
    if jit_compile and not isinstance(method, ik.Gradual | ik.RigL):
        pytest.skip("one method by masks and one by gradients are enough")
    net = small.model(steps_per_execution=8, jit_compile=jit_compile)
    sparsify = ik.Sparsify(method)
    watching = Watching(sparsify)
    small.fit(net, sparsify, watching)
    assert watching.active[-1] == LAST
    assert int(keras.ops.convert_to_numpy(net.optimizer.iterations)) == 40


@every_method
def test_half_precision_trains(method: Any) -> None:
    policy = "mixed_float16" if isinstance(method, ik.RigL | ik.Gradual) else "mixed_bfloat16"
    keras.config.set_dtype_policy(policy)
    net = small.model()
    assert (type(net.optimizer).__name__ == "LossScaleOptimizer") == (policy == "mixed_float16")
    sparsify = ik.Sparsify(method)
    watching = Watching(sparsify)
    small.fit(net, sparsify, watching)
    assert watching.active[-1] == LAST
    assert sparsify.report is not None
    assert sparsify.report.sparsity >= SPARSITY


def test_skipped_steps_do_not_count_and_the_end_is_exact(tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    net = small.model(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=2.0**40))
    sparsify = ik.Sparsify(ik.RigL(SPARSITY, delta_t=4))
    small.fit(net, sparsify)
    assert sparsify.state is not None
    assert 0 < int(keras.ops.convert_to_numpy(net.optimizer.iterations)) < 40
    assert sum(int(mask.sum()) for mask in sparsify.masks.values()) == LAST
    net.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras")


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        keras.optimizers.AdamW(weight_decay=0.1, global_clipnorm=0.1),
        keras.optimizers.Adam(use_ema=True, ema_momentum=0.9),
        keras.optimizers.RMSprop(centered=True, momentum=0.5),
        keras.optimizers.Adam(gradient_accumulation_steps=2),
        keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.9)),
    ],
    ids=["momentum", "decay", "ema", "rmsprop", "accumulation", "schedule"],
)
def test_zeros_hold_with_any_optimiser(optimizer: Any) -> None:
    before = set(vars(optimizer))
    net = small.model(optimizer)
    sparsify = ik.Sparsify(ik.RigL(SPARSITY, delta_t=4))
    watching = Watching(sparsify)
    small.fit(net, sparsify, watching)
    assert watching.active == [LAST] * 4
    assert sparsify.report is not None
    assert sparsify.report.sparsity >= SPARSITY
    assert "apply" not in vars(optimizer)
    assert before <= set(vars(optimizer))


def test_the_optimiser_is_left_as_it_was_found() -> None:
    net = small.model()
    small.fit(net, epochs=1)
    count, kind = len(net.optimizer.variables), type(net.optimizer)
    small.fit(net, ik.Sparsify(ik.Static(0.5)), epochs=1)
    assert len(net.optimizer.variables) == count
    assert type(net.optimizer) is kind
    assert not hasattr(net.optimizer, "sparsity_state")
    kept = small.kernels(net)
    small.fit(net, epochs=1)  # nothing holds the zeros any more
    assert sum(np.count_nonzero(kernel) for kernel in small.kernels(net).values()) > sum(
        np.count_nonzero(kernel) for kernel in kept.values()
    )
    second = ik.Sparsify(ik.Static(0.7))
    small.fit(net, second, epochs=1)
    assert second.report is not None
    assert second.report.sparsity == pytest.approx(0.7, abs=5e-3)


def test_a_trained_model_goes_on_from_its_own_zero() -> None:
    net = small.model()
    small.fit(net, epochs=2)
    sparsify = ik.Sparsify(ik.Gradual(SPARSITY, delta_t=3))
    watching = Watching(sparsify)
    small.fit(net, sparsify, watching)
    assert watching.active == expected(sparsify.method, 4, 10)


def test_an_initial_epoch_continues_with_the_zeros_of_the_model() -> None:
    whole, net = small.model("sgd"), small.model("sgd")
    straight, first, second = (ik.Sparsify(ik.Gradual(SPARSITY, delta_t=3)) for _ in range(3))
    small.fit(whole, straight)
    first = ik.Sparsify(ik.Gradual(SPARSITY, delta_t=3), total_steps=40, allow_unfinished=True)
    small.fit(net, first, epochs=2)
    small.fit(net, second, initial_epoch=2)
    for name, mask in straight.masks.items():
        assert np.array_equal(second.masks[name], mask)


def test_backup_and_restore_brings_back_the_state(tmp_path: Path) -> None:
    class Failing(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise RuntimeError("the machine went down")

    method = ik.RigL(SPARSITY, delta_t=4)
    whole = small.model()
    straight = ik.Sparsify(method)
    small.fit(whole, straight)
    net = small.model()
    backup = [ik.Sparsify(method), keras.callbacks.BackupAndRestore(tmp_path / "backup")]
    with pytest.raises(RuntimeError, match="went down"):
        small.fit(net, *backup, Failing())
    again = small.model(seed=7)
    last = ik.Sparsify(method)
    small.fit(again, last, keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    for name, mask in straight.masks.items():
        assert np.array_equal(last.masks[name], mask)


def every_kind() -> Any:
    given = keras.Input((4, 4, 8))
    x = layers.Conv2D(8, 3, padding="same", name="conv_2d")(given)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv3D(2, 3, padding="same", name="conv_3d")(layers.Reshape((4, 4, 4, 2), name="deep")(x))
    x = layers.Conv1D(8, 3, strides=4, padding="same", name="conv_1d")(layers.Reshape((16, 8), name="flat")(x))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.EinsumDense("abc,cd->abd", (None, 8), name="einsum")(x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True, name="lstm"), name="both_lstm")(x)
    x = layers.Bidirectional(layers.GRU(4, name="gru"), name="both_gru")(x)
    return keras.Model(given, layers.Dense(2, name="last")(x))


@every_method
@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "mixed"])
def test_layers_of_every_kind_train_and_resume(method: Any, mixed: bool, tmp_path: Path) -> None:
    """Also with half precision and eight steps in one execution at once, where the backend has them."""
    # JAX has no attention in float16 on a CPU.
    half = "mixed_bfloat16" if keras.backend.backend() == "jax" else "mixed_float16"
    keras.config.set_dtype_policy(half if mixed else "float32")
    several = {"steps_per_execution": 8} if mixed and keras.backend.backend() != "torch" else {}
    whole, path = every_kind(), tmp_path / "model.keras"
    whole.compile("adam", "mse", **several)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 4, 4, 8)), rng.normal(size=(80, 2))
    options = {"targets": ".*kernel", "ignore": "last", "seed": 1}  # depthwise kernels are named by it too
    straight = ik.Sparsify(method, **options)
    watching = Watching(straight)
    saving = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: whole.save(path) if epoch == 1 else None)
    training = {"batch_size": 8, "epochs": 4, "shuffle": False, "verbose": 0}
    whole.fit(x, y, callbacks=[straight, watching, saving], **training)
    assert len(straight.targets) == 17
    assert straight.state is not None
    last = active_count(straight.state.size, SPARSITY)
    assert watching.active[-1] == last
    if isinstance(method, ik.Static | ik.SET | ik.RigL):
        assert watching.active == [last] * 4
    assert ik.measure(whole, ".*kernel", "last").sparsity >= SPARSITY
    net = keras.models.load_model(path)
    again = ik.Sparsify(method, resume=path, **options)
    net.fit(x, y, callbacks=[again], initial_epoch=2, **training)
    for name, mask in straight.masks.items():
        assert np.array_equal(again.masks[name], mask), name
    for one, other in zip(whole.weights, net.weights, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)), one.path


@keras.saving.register_keras_serializable("tests")
class Unnamed(keras.Model):
    """Its layers are numbered by Keras, anew in each model."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.last = layers.Dense(16), layers.Dense(small.OUTPUTS)

    def call(self, x: Any) -> Any:
        return self.last(keras.ops.tanh(self.first(x)))


def test_a_training_resumes_under_other_automatic_names(tmp_path: Path) -> None:
    method, path, whole = ik.SET(SPARSITY, delta_t=4), tmp_path / "model.keras", Unnamed()
    whole.compile("adam", "mse")
    saving = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: whole.save(path) if epoch == 1 else None)
    straight = ik.Sparsify(method)
    small.fit(whole, straight, saving)
    net = keras.models.load_model(path)
    again = ik.Sparsify(method, resume=path)
    small.fit(net, again, initial_epoch=2)
    assert set(again.masks).isdisjoint(straight.masks)
    for one, other in zip(straight.masks.values(), again.masks.values(), strict=True):
        assert np.array_equal(one, other)
    for before, after in zip(whole.get_weights(), net.get_weights(), strict=True):
        assert np.array_equal(before, after)
    other_one = keras.Sequential([keras.Input((small.INPUTS,)), layers.Dense(8), layers.Dense(small.OUTPUTS)])
    other_one.compile("adam", "mse")
    with pytest.raises(SparsifierError, match=r"another one: its shapes is \[\[16, 12\], \[3, 16\]\], and here it is"):
        small.fit(other_one, ik.Sparsify(method, resume=path), initial_epoch=2)


def test_the_logs_tell_what_a_method_did() -> None:
    history = small.fit(small.model(), ik.Sparsify(ik.RigL(SPARSITY, delta_t=5))).history
    assert {"sparsity", "mask_sparsity", "drop_fraction", "dropped", "grown"} <= set(history)
    assert history["drop_fraction"] == sorted(history["drop_fraction"], reverse=True)
    assert history["dropped"][0] == history["grown"][0] > 0


def test_embeddings_are_trained_sparse_where_named() -> None:
    net = keras.Sequential([layers.Embedding(20, 8, name="words"), layers.Flatten(), layers.Dense(2, name="last")])
    net.compile("adam", "mse")
    sparsify = ik.Sparsify(ik.Gradual(0.5), embeddings=True)
    rng = np.random.default_rng(0)
    net.fit(rng.integers(0, 20, (32, 4)), rng.normal(size=(32, 2)), epochs=4, verbose=0, callbacks=[sparsify])
    assert sparsify.targets == ["words/embeddings", "last/kernel"]
    assert ik.measure(net, embeddings=True).sparsity >= 0.5


def test_a_subclassed_model_of_unknown_input_trains() -> None:
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = layers.Dense(16, name="first"), layers.Dense(small.OUTPUTS, name="last")

        def call(self, x: Any) -> Any:
            return self.last(keras.ops.tanh(self.first(x)))

    net = Model()
    net.compile("adam", "mse")
    sparsify = ik.Sparsify(ik.Static(SPARSITY))
    watching = Watching(sparsify)
    small.fit(net, sparsify, watching)
    assert watching.active == [LAST] * 4


def test_given_masks_are_the_start() -> None:
    net = small.model()
    masks = {name: np.zeros(kernel.shape, bool) for name, kernel in small.kernels(net).items()}
    for mask in masks.values():
        mask[0] = True
    sparsify = ik.Sparsify(ik.Static(masks=masks))
    small.fit(net, sparsify, epochs=1)
    for name, mask in masks.items():
        assert np.array_equal(sparsify.masks[name], mask)
    adopting = ik.Sparsify(ik.Gradual(0.95), adopt=True)
    small.fit(net, adopting, epochs=1)
    for name, mask in masks.items():
        assert not (adopting.masks[name] & ~mask).any()
    starting = ik.Sparsify(ik.Gradual(0.95), masks=masks)
    small.fit(small.model(), starting, epochs=1)
    for name, mask in masks.items():
        assert not (starting.masks[name] & ~mask).any()


def test_a_floor_that_is_broken_holds_the_sparsity_back() -> None:
    method = ik.Aware(SPARSITY, floor=1e-9, higher_is_better=False, delta_t=2)
    sparsify = ik.Sparsify(method, metric="loss")
    history = small.fit(small.model(), sparsify).history
    assert history["setpoint"][0] == pytest.approx(history["setpoint"][-1])
    assert history["mask_sparsity"][-1] < SPARSITY
    with pytest.raises(UsageError, match=r"holds a floor and gets no metric"):
        ik.Sparsify(method)
    with pytest.raises(UsageError, match=r"metric='accuracy', which is not logged; accepted are loss"):
        small.fit(small.model(), ik.Sparsify(method, metric="accuracy"))


def test_a_training_that_stops_early_says_so_unless_allowed() -> None:
    class Stopping(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = True

    method = ik.Gradual(SPARSITY, delta_t=3)
    with pytest.raises(SparsifierError, match=r"Training ended after 10 of 40 steps, before the sparsity was final"):
        small.fit(small.model(), ik.Sparsify(method), Stopping())
    allowed = ik.Sparsify(method, allow_unfinished=True)
    small.fit(small.model(), allowed, Stopping())
    assert allowed.report is not None


@pytest.mark.filterwarnings("ignore:.*Your input ran out of data:UserWarning")
def test_data_without_a_length_needs_the_number_of_steps() -> None:
    def endless() -> Any:
        x, y = small.data(10)
        for start in range(0, len(x), small.BATCH):
            yield x[start : start + small.BATCH], y[start : start + small.BATCH]

    with pytest.raises(UsageError, match=r"cannot tell how many steps there will be"):
        small.model().fit(endless(), epochs=1, shuffle=False, verbose=0, callbacks=[ik.Sparsify(ik.Static(0.5))])
    sparsify = ik.Sparsify(ik.Gradual(0.5), total_steps=10)
    small.model().fit(endless(), epochs=1, shuffle=False, verbose=0, callbacks=[sparsify])
    assert sparsify.report is not None
    assert sparsify.report.sparsity == 0.5


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (lambda: ik.Sparsify("gradual"), UsageError, r"Sparsify got method='gradual'; accepted is a method"),
        (lambda: ik.Sparsify(ik.OneShot(0.5)), UsageError, r"accepted is a method that works during training"),
        (lambda: ik.Sparsify(ik.Static(0.5), total_steps=0), UsageError, r"got total_steps=0; accepted is a whole"),
        (lambda: ik.Sparsify(ik.Static(0.5)).masks, UsageError, r"knows no masks yet"),
        (ik.Gradual, UsageError, r"Gradual needs a sparsity"),
        (lambda: ik.Gradual(0.6, pattern="2:4"), UsageError, r"pattern 2:4 allows 0.5 at most"),
        (lambda: ik.Static(0.5, score="snip"), UnsupportedError, r"score=snip, which looks at data"),
        (lambda: ik.Aware(0.5, penalty=1.0), UsageError, r"got penalty=1.0; accepted are isogrid.keras.L1"),
        (lambda: ik.Aware(pattern="2:4"), UsageError, r"cannot steer towards pattern"),
        (lambda: ik.Trigger(0.5, threshold=1.0, quantile=0.5), UsageError, r"both a threshold and a quantile"),
        (lambda: ik.SET(0.5, init="ones"), UsageError, r"accepted are 'random' and 'zero'"),
        (lambda: ik.RigL(0.5, window=0), UsageError, r"got window=0; accepted is a whole number"),
        (lambda: ik.prune(None, ik.Gradual(0.5)), UsageError, r"accepted is OneShot"),
        (lambda: ik.L1(-1.0), UsageError, r"L1 got lam=-1.0; accepted is a finite number >= 0"),
    ],
)
def test_what_is_not_accepted_is_refused(made: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made()


def test_what_does_not_fit_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    net = small.model()
    with pytest.raises(TargetError, match=r"targets entry 'frist'"):
        small.fit(net, ik.Sparsify(ik.Static(0.5), targets="frist"))
    with pytest.raises(SparsifierError, match=r"is no file; resume= names"):
        small.fit(net, ik.Sparsify(ik.Static(0.5), resume=tmp_path / "missing.keras"))
    net.save(tmp_path / "plain.keras")
    with pytest.raises(SparsifierError, match=r"holds no state of a sparse training"):
        small.fit(net, ik.Sparsify(ik.Static(0.5), resume=tmp_path / "plain.keras"))
    saving = keras.callbacks.ModelCheckpoint(tmp_path / "other.keras")
    small.fit(net, ik.Sparsify(ik.Static(0.5)), saving, epochs=1)
    with pytest.raises(SparsifierError, match=r"The saved training is another one: its method is 'Static"):
        small.fit(net, ik.Sparsify(ik.Static(0.6), resume=tmp_path / "other.keras"))
    with pytest.raises(SparsifierError, match=r"Another Sparsify callback rides on this optimiser"):
        small.fit(net, ik.Sparsify(ik.Static(0.5)), ik.Sparsify(ik.Static(0.5)))
    assert not hasattr(small.model().optimizer, "sparsity_state")
    with pytest.raises(UnsupportedError, match=r"does not know the step size of Lion"):
        small.fit(small.model("lion"), ik.Sparsify(ik.Aware(0.5)))


def test_weights_that_are_frozen_are_not_exchanged() -> None:
    net = small.model()
    net.get_layer("first").trainable = False
    net.compile("adam", "mse")
    before = small.kernels(net)["first/kernel"]
    small.fit(net, ik.Sparsify(ik.SET(SPARSITY, delta_t=4)))
    after = small.kernels(net)["first/kernel"]
    assert np.array_equal(after[after != 0], before[after != 0])


@pytest.mark.parametrize("kind", [keras.optimizers.Adam, keras.optimizers.RMSprop, keras.optimizers.Adagrad])
def test_a_weight_that_no_gradient_has_reached_goes_by_the_mean_of_its_tensor(kind: Any) -> None:
    options = {"initial_accumulator_value": 0.0} if kind is keras.optimizers.Adagrad else {}
    optimizer = kind(0.01, **options)
    weight = keras.Variable(np.ones(3, dtype=np.float32))
    optimizer.build([weight])

    def sizes(*gradient: float) -> list[float]:
        optimizer.apply([keras.ops.convert_to_tensor(np.float32(gradient))])
        found = step_size(optimizer, weight, keras.ops.convert_to_tensor(0.01), keras.ops.convert_to_tensor(1.0))
        return [float(size) for size in keras.ops.convert_to_numpy(found)]

    assert sizes(0.0, 0.0, 0.0) == [0.0, 0.0, 0.0]
    first, untouched, last = sizes(0.5, 0.0, 1.5)
    assert 1 / untouched == pytest.approx((1 / first + 1 / last) / 2, rel=1e-4)
