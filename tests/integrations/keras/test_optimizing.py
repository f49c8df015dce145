"""The main job for Keras models, on real data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

import isogrid as ig
import isogrid.keras as ik
from integrations.keras import small
from isogrid.errors import DataError, FloorError, RunError, TargetError, UsageError
from isogrid.frontier import EpochEnd, Listener, OptimizeResult
from isogrid.runtime.session import Session

RECIPE = ik.Recipe(epochs=3, rung_epochs=2, lr=1e-2, ladder=(0.5, 0.9))


@pytest.fixture(autouse=True)
def no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing has tests of its own."""
    monkeypatch.setattr("isogrid.frontier.writing.measure_speed", lambda *_: None)


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y = (images[order] / 16).astype(np.float32), labels[order]
    parts = {"train": slice(0, 1000), "validation": slice(1000, 1400), "test": slice(1400, None)}
    return {name: (x[part], y[part]) for name, part in parts.items()}


def net() -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,), name="pixels"),
            layers.Dense(32, activation="relu", name="first"),
            layers.Dropout(0.1, name="dropout"),
            layers.Dense(10, activation="softmax", name="last"),
        ],
        name="digits",
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def run(digits: dict[str, Any], out: Path, model: Any = None, **changes: Any) -> OptimizeResult:
    given = {"max_drop": "5pt", "recipe": RECIPE, "match_dense": False, **digits, **changes}
    return ik.optimize(net() if model is None else model, out=out, **given)


@pytest.fixture(scope="module")
def finished(digits: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> OptimizeResult:
    """One whole run, for tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isogrid.frontier.writing.measure_speed", lambda *_: None)
        return run(digits, tmp_path_factory.mktemp("run") / "whole")


def test_all_files_hold_the_model_that_the_report_states(finished: OptimizeResult, digits: dict[str, Any]) -> None:
    result, report = json.loads((finished.path / "result.json").read_text()), finished.report
    assert report.balance.sparsity > 0.8
    assert result["balance"]["files"] == {
        name: (finished.path / name).stat().st_size
        for name in ("model.safetensors", "model.keras", "model.onnx", "model.packed.onnx")
        if (finished.path / name).exists()
    }
    counted = ig.inspect(finished.path / "model.safetensors")
    loaded = keras.models.load_model(finished.path / "model.keras")
    for found in (counted, ik.measure(finished.model), ik.measure(loaded)):
        for field in ("sparsity", "sparsity_of_model", "nonzeros", "parameters"):
            assert getattr(found, field) == getattr(report.balance, field), field
    x, y = digits["test"]
    for model in (finished.model, loaded):
        measured = model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
        assert measured == pytest.approx(report.balance.test_metric, abs=1e-6)
    (answers,) = Session(finished.path / "model.onnx").run([x])
    assert np.mean(answers.argmax(axis=1) == y) == report.balance.test_metric


def test_the_report_has_what_the_one_of_pytorch_has(finished: OptimizeResult) -> None:
    report = finished.report
    assert report.metric.name == "accuracy"
    assert report.verdict.samples == 397
    assert report.verdict.low < report.verdict.high
    assert [row.name for row in report.layers] == ["first/kernel", "last/kernel"]
    assert [row.units for row in report.layers] == [32, 10]
    assert len(report.classes) == 10
    assert report.changes is not None
    assert report.inputs is not None
    assert len(report.inputs.counts) == 64
    assert {point.phase for point in report.history} == {"dense", "rung 1, 50 %", "rung 2, 90 %"} | {
        point.phase for point in report.history if point.phase.startswith(("rung 3", "rung 4"))
    }
    assert report.versions["keras"] == keras.__version__
    page = (finished.path / "report.html").read_text()
    assert "first/kernel" in page


def test_every_rung_stands_in_the_frontier_at_every_precision(finished: OptimizeResult) -> None:
    points = json.loads((finished.path / "frontier.json").read_text())
    for rung in range(3):
        assert [p["precision"] for p in points if p["rung"] == rung] == ["fp32", "fp16", "int8"]
    assert points[3]["sparsity"] == 0.5
    assert points[6]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert points[5]["bytes"] < points[3]["bytes"] < points[0]["bytes"]


def test_a_finished_run_is_read_and_another_one_is_refused(finished: OptimizeResult, digits: dict[str, Any]) -> None:
    again = run(digits, finished.path)
    assert again.resumed
    assert again.report.to_json() == finished.report.to_json()
    assert ik.measure(again.model) == ik.measure(finished.model)
    with pytest.raises(RunError, match="another folder"):
        run(digits, finished.path, max_drop="1pt")


class Interrupter(Listener):
    """Presses Ctrl-C after that many steps."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.epochs: list[EpochEnd] = []

    def step_taken(self, phase: str, share: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def epoch_ended(self, event: EpochEnd) -> None:
        self.epochs.append(event)


@pytest.mark.parametrize("after", [40, 140])
def test_an_interrupted_run_goes_on_to_the_same_numbers(
    after: int, finished: OptimizeResult, digits: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(digits, tmp_path, listener=Interrupter(after))
    assert list((tmp_path / "checkpoints").glob("*.ckpt"))
    run(digits, tmp_path)
    for name in ("frontier.json", "model.safetensors", "dense.safetensors"):
        assert (tmp_path / name).read_bytes() == (finished.path / name).read_bytes(), name


def test_the_users_model_and_random_numbers_stay(digits: dict[str, Any], tmp_path: Path) -> None:
    model = net()
    before, optimizer = model.get_weights(), model.optimizer
    np.random.seed(1)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    run(digits, tmp_path, model, pretrained=True, method="one_shot", test=None)
    assert np.random.random() == expected  # noqa: NPY002
    assert model.optimizer is optimizer
    for array, was in zip(model.get_weights(), before, strict=True):
        assert np.array_equal(array, was)


def batches(part: tuple[Any, Any]) -> list[tuple[Any, Any]]:
    return [(part[0][i : i + 50], part[1][i : i + 50]) for i in range(0, len(part[0]), 50)]


def test_batches_another_metric_and_a_method_that_starts_anew(tmp_path: Path) -> None:
    """A regression, from lists of batches, judged by its error: less is better, and each sample counts."""
    x, y = small.data(20)
    parts = {"train": batches((x[:100], y[:100])), "validation": (x[100:130], y[100:130]), "test": (x[130:], y[130:])}
    model = small.model(keras.optimizers.SGD(0.05, momentum=0.9), metrics=["mae"])
    result = ik.optimize(
        model, out=tmp_path, max_drop="50%", method=ik.RigL(sparsity=0.5, delta_t=1), **parts,
        recipe=ik.Recipe(epochs=30, rung_epochs=2, ladder=(0.5,)),
    )  # fmt: skip
    assert result.report.metric == ig.Metric("mae", higher_is_better=False)
    assert result.report.verdict.samples == 30
    rung = [point for point in result.report.points if point.rung == 1 and point.precision == "fp32"]
    assert rung[0].sparsity == pytest.approx(0.5, abs=0.01)
    error = result.model.evaluate(*parts["test"], verbose=0, return_dict=True)["mae"]
    assert error == pytest.approx(result.report.balance.test_metric, abs=1e-5)
    assert result.model.optimizer.momentum == pytest.approx(0.9)
    assert float(keras.ops.convert_to_numpy(result.model.optimizer.learning_rate)) == pytest.approx(0.05)


def test_a_model_that_is_not_compiled_with_two_inputs_and_a_floor_that_a_method_watches(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    one, two = keras.Input((6,), name="one"), keras.Input((6,), name="two")
    hidden = layers.Dense(12, activation="relu", name="hidden")(layers.Concatenate(name="both")([one, two]))
    model = keras.Model({"one": one, "two": two}, layers.Dense(2, name="last")(hidden), name="pair")
    x = np.random.default_rng(0).normal(size=(240, 12)).astype(np.float32)
    y = (x[:, 0] > x[:, 6]).astype(np.int64)
    parts = {
        name: ({"one": x[part, :6], "two": x[part, 6:]}, y[part])
        for name, part in {"train": slice(0, 160), "validation": slice(160, 200), "test": slice(200, 240)}.items()
    }
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    result = ik.optimize(
        model, loss=loss, out=tmp_path, floor=0.7, method="aware", **parts,
        recipe=ik.Recipe(epochs=10, rung_epochs=3, lr=1e-2, ladder=(0.5,)),
    )  # fmt: skip
    assert result.report.metric.name == "accuracy"
    assert result.report.balance.sparsity >= 0.5
    counted = ig.inspect(tmp_path / "model.onnx")
    assert counted.sparsity == pytest.approx(result.report.balance.sparsity)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"minimize": "latency"}, UsageError, "minimize='latency'; accepted are 'bytes' and 'nonzeros'"),
        ({"method": "wanda"}, UsageError, "wanda"),
        ({"metric": "auc"}, UsageError, "metric='auc', which is not logged; accepted are accuracy, loss"),
        ({"floor": 0.9}, UsageError, "max_drop='5pt' and floor=0.9; accepted is one of max_drop"),
        ({"loss": "mse"}, UsageError, "beside a compiled model"),
        ({"train": iter([])}, UsageError, "train is an iterator, which ends after one pass"),
        ({"train": []}, DataError, "train holds no batch"),
        ({"validation": (np.zeros((2, 64)), np.zeros(3))}, UsageError, "arrays of 2, 3 samples"),
        ({"targets": "nothing"}, TargetError, "nothing"),
        ({"max_drop": "much"}, FloorError, "much"),
        ({"seed": -1}, UsageError, "seed=-1"),
    ],
    ids=[
        "minimize",
        "method",
        "metric",
        "floor",
        "loss",
        "iterator",
        "empty",
        "lengths",
        "targets",
        "max_drop",
        "seed",
    ],
)
def test_what_does_not_fit_is_one_sentence_before_anything_is_trained(
    changes: dict[str, Any], error: type[Exception], sentence: str, digits: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(error, match=sentence):
        run(digits, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_job_of_pytorch_names_the_one_of_keras(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Keras model Sequential; isogrid\.keras\.optimize is the one"):
        ig.optimize(net(), out=tmp_path, max_drop="1pt")


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras itself imports it there")
def test_no_pytorch_is_needed(tmp_path: Path) -> None:
    program = """
import sys
class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, WithoutTorch())
import keras, numpy as np, isogrid.keras as ik
x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
data = x, (x[:, :1] > 0).astype("int64")
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(1, activation="sigmoid")])
model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
recipe = ik.Recipe(epochs=1, rung_epochs=1, ladder=(0.5,))
result = ik.optimize(model, train=data, validation=data, floor=0.0, out=sys.argv[1], recipe=recipe)
print(max(point.sparsity for point in result.report.points))
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) >= 0.5
