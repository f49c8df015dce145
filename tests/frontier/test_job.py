"""`optimize` as a program calls it."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import isogrid as ig
from isogrid.errors import (
    FloorError,
    MissingDependencyError,
    PatternError,
    RunError,
    TargetError,
    TrainingError,
    UnsupportedError,
    UsageError,
)
from isogrid.floor import max_drop
from isogrid.frontier import EpochEnd, Listener, OptimizeResult, optimize, training
from isogrid.frontier.confirm import confirm
from isogrid.metrics import Metric, Outcomes
from isogrid.sparsify import HardConcrete
from isogrid.tasks import ClassificationTask, Recipe

Script = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.usefixtures("no_page")


LOOP = ("train", "evaluate", "test", "example")
"""What belongs to a module and not to a task."""


class Recorder(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.epochs: list[EpochEnd] = []
        self.rungs: list[tuple[float, float, bool]] = []
        self.shares: list[float] = []

    def planned(self, epochs: int) -> None:
        self.heard.append(f"planned {epochs}")

    def phase_started(self, phase: str, epochs: int, done: int) -> None:
        self.heard.append(f"{phase}: {done} of {epochs}")

    def step_taken(self, phase: str, share: float) -> None:
        self.shares.append(share)

    def epoch_ended(self, event: EpochEnd) -> None:
        self.epochs.append(event)

    def rung_measured(self, sparsity: float, metric: float, holds: bool) -> None:
        self.rungs.append((sparsity, metric, holds))


class Interrupter(Recorder):
    """Presses Ctrl-C after that many steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def step_taken(self, phase: str, share: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def contents(folder: Path) -> dict[str, bytes]:
    names = ("frontier.json", "frontier.csv", "result.json", "model.onnx", "model.safetensors", "dense.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def result_of(result: OptimizeResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result.path / "result.json").read_text())
    return found


# -- what a run leaves behind ----------------------------------------------------------------------------------------


def test_the_result_states_what_the_files_hold(finished: OptimizeResult) -> None:
    result = result_of(finished)
    for name, file in (("dense", "dense.safetensors"), ("balance", "model.safetensors")):
        numbers, counted = result[name], ig.inspect(finished.path / file)
        assert 0 <= numbers["test_accuracy"] <= 1
        for field in ("sparsity", "sparsity_of_model", "nonzeros", "parameters"):
            assert numbers[field] == getattr(counted, field), (name, field)
        sizes = {written: (finished.path / written).stat().st_size for written in numbers["files"]}
        assert numbers["files"] == sizes
        assert numbers["bytes"] == min(sizes.values())
    assert result["balance"]["sparsity"] == ig.inspect(finished.path / "model.onnx").sparsity
    assert result["balance"]["sparsity"] > 0.5
    assert result["dense"]["sparsity"] == 0


def test_the_result_is_the_models_own(finished: OptimizeResult, tiny: ClassificationTask) -> None:
    model = finished.model
    counted = ig.inspect(finished.path).result
    assert counted is not None
    outcomes = tiny.evaluate(model, "test")
    assert outcomes.value == counted["balance"]["test_accuracy"]
    zeros = sum(int((m.weight == 0).sum()) for m in model if isinstance(m, nn.Linear))
    size = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))
    assert counted["balance"]["sparsity"] == 1 - (size - zeros) / size
    assert counted["balance"]["nonzeros"] == sum(int((p != 0).sum()) for p in model.parameters())
    loaded = ig.load(finished.path / "model.safetensors", into=tiny.model()).eval()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_the_frontier_holds_every_rung_at_every_precision(finished: OptimizeResult) -> None:
    points = json.loads((finished.path / "frontier.json").read_text())
    rungs = sorted({point["rung"] for point in points})
    assert rungs == list(range(len(rungs)))
    for rung in rungs:
        assert [p["precision"] for p in points if p["rung"] == rung] == ["fp32", "fp16", "int8"]
    chosen = [point for point in points if point["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["bytes"] == min(point["bytes"] for point in points if point["holds"])
    assert chosen[0]["bytes"] == (finished.path / "model.safetensors").stat().st_size
    lines = (finished.path / "frontier.csv").read_text().splitlines()
    assert len(lines) == len(points) + 1


def test_a_rung_that_breaks_the_floor_is_followed_by_one_below_it(finished: OptimizeResult) -> None:
    points = json.loads((finished.path / "frontier.json").read_text())
    held = {p["rung"]: p["sparsity"] for p in points if p["holds"] and p["rung"]}
    broken = {p["rung"]: p["sparsity"] for p in points if not p["holds"]}
    ladder_break = min(rung for rung in broken if rung not in held)
    assert any(rung > ladder_break and max(held.values()) >= s > 0.5 for rung, s in held.items())


def test_everything_of_the_run_is_in_its_directory(finished: OptimizeResult) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert names == {
        "config.json", "checkpoints", "frontier.json", "frontier.csv", "result.json", "report.json", "report.html",
        "model.onnx", "model.safetensors", "dense.safetensors",
    }  # fmt: skip
    config = json.loads((finished.path / "config.json").read_text())
    assert config["seed"] == 0
    assert config["floor"] == "2pt"
    assert config["recipe"]["ladder"] == [0.5, 0.8, 0.95]
    report = json.loads((finished.path / "report.json").read_text())["report"]
    assert report["versions"]["torch"] == torch.__version__


# -- a script's own objects ------------------------------------------------------------------------------------------


def test_a_module_a_loader_and_a_function_suffice(script: Script, tmp_path: Path) -> None:
    result = optimize(**script(), out=tmp_path)
    assert result.verdict in ("held", "broken", "unresolved")
    assert result.report.verdict.samples == 96
    assert result.report.dense.train_metric is None


def test_without_a_test_split_nothing_is_confirmed(script: Script, tmp_path: Path) -> None:
    result = optimize(**script(test=None), out=tmp_path)
    assert result.verdict == "untested"
    assert result_of(result)["balance"]["test_accuracy"] is None


@pytest.mark.parametrize("form", ["float", "array", "tensor", "outcomes"])
def test_evaluate_may_return_a_number_or_scores(
    form: str, script: Script, tiny: ClassificationTask, tmp_path: Path
) -> None:
    forms: dict[str, Callable[[Outcomes], Any]] = {
        "float": lambda outcomes: outcomes.value,
        "array": lambda outcomes: outcomes.scores,
        "tensor": lambda outcomes: torch.tensor(outcomes.scores > 0.5),
        "outcomes": lambda outcomes: outcomes,
    }

    def measured(split: Any) -> Callable[[nn.Module], Any]:
        return lambda model: forms[form](tiny.evaluate(model, split))

    result = optimize(**script(evaluate=measured("validation"), test=measured("test")), out=tmp_path)
    verdict = result.report.verdict
    dense, sparse = result.report.dense.test_metric, result.report.balance.test_metric
    assert dense is not None
    assert sparse is not None
    assert verdict.drop == pytest.approx(dense - sparse)
    if form == "float":
        assert verdict.samples == 0
        assert verdict.state == ("held" if verdict.drop <= verdict.allowed else "broken")
    else:
        assert verdict.samples == 96
        assert verdict.low < verdict.high
    assert bool(result.report.classes) == (form == "outcomes")


def test_a_model_of_keras_is_told_which_job_takes_it(tmp_path: Path) -> None:
    model = type("Functional", (nn.Module,), {"__module__": "keras.src.models.functional"})()
    with pytest.raises(
        UsageError, match=r"got the Keras model Functional; isogrid\.keras\.optimize is the one that takes"
    ):
        optimize(model, max_drop="1pt", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def regression(**changes: Any) -> dict[str, Any]:
    """A linear law with noise, and a network that begins at a good fit of it."""
    generator = torch.Generator().manual_seed(0)
    law = torch.randn(10, 1, generator=generator)
    x = torch.randn(400, 10, generator=generator)
    y = x @ law + 0.3 * torch.randn(400, 1, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (model(x[:200]) - y[:200]).square().mean().backward()
        optimizer.step()

    def errors(part: slice) -> Callable[[nn.Module], torch.Tensor]:
        return lambda m: (m(x[part]) - y[part]).square().squeeze(1)

    given = {
        "model": model, "train": [(x[i : i + 50], y[i : i + 50]) for i in range(0, 200, 50)],
        "evaluate": errors(slice(200, 300)), "test": errors(slice(300, 400)), "example": x[:4],
        "loss": lambda answer, batch: (answer - batch[1]).square().mean(),
        "metric": Metric("squared error", higher_is_better=False), "max_drop": "5%", "pretrained": True,
        "recipe": ig.Recipe(rung_epochs=5, lr=1e-2, ladder=(0.3, 0.5, 0.95)),
    }  # fmt: skip
    return {**given, **changes}


def test_a_metric_of_which_less_is_better_and_a_pretrained_model(tmp_path: Path) -> None:
    given = regression()
    before = {name: value.clone() for name, value in given["model"].state_dict().items()}
    recorder = Recorder()
    result = optimize(**given, out=tmp_path, listener=recorder)
    # The baseline is the model as it came: no dense training, and the file holds its very weights.
    assert not any("dense" in line for line in recorder.heard)
    loaded = ig.load(tmp_path / "dense.safetensors", into=nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 1)))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(given["model"].state_dict()[name], before[name])
    report = result.report
    assert report.floor.limit == pytest.approx(1.05 * report.floor.baseline)
    for point in report.points:
        if (point.rung, point.precision) != (0, "fp32"):
            assert point.holds == (point.metric <= report.floor.limit)
    assert report.balance.validation_metric <= report.floor.limit
    assert any(not point.holds for point in report.points)
    numbers = result_of(result)["balance"]
    assert "test_accuracy" not in numbers
    assert numbers["test_metric"] == report.balance.test_metric


def test_the_caller_keeps_its_random_numbers_and_its_model(script: Script, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(9)
    given = script()
    data = given["train"].dataset
    given["train"] = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True, generator=generator)
    before = {name: value.clone() for name, value in given["model"].state_dict().items()}
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(1), torch.rand(1, generator=generator)  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    generator.manual_seed(9)
    optimize(**given, out=tmp_path)
    after = random.random(), np.random.random(), torch.rand(1), torch.rand(1, generator=generator)  # noqa: NPY002
    assert after == expected
    assert given["model"].training
    for name, value in given["model"].state_dict().items():
        assert torch.equal(value, before[name])


# -- repeating, resuming, reading back -------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(script: Script, tmp_path: Path) -> None:
    torch.rand(3)  # wherever the caller's generator stands
    first = optimize(**script(), out=tmp_path / "a")
    torch.rand(5)
    second = optimize(**script(), out=tmp_path / "b")
    assert contents(first.path) == contents(second.path)
    other = optimize(**script(), out=tmp_path / "c", seed=1)
    assert contents(first.path)["model.safetensors"] != contents(other.path)["model.safetensors"]


@pytest.mark.parametrize("own_generator", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_bytes(script: Script, tmp_path: Path, own_generator: bool) -> None:
    def given() -> dict[str, Any]:
        arguments = script()
        if own_generator:
            generator = torch.Generator().manual_seed(3)
            data = arguments["train"].dataset
            arguments["train"] = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True, generator=generator)
        return arguments

    whole = optimize(**given(), out=tmp_path / "whole")
    for after in (12, 6):  # in the second epoch of the dense model, then in the first rung
        with pytest.raises(KeyboardInterrupt):
            optimize(**given(), out=tmp_path / "cut", listener=Interrupter(after))
    resumed = optimize(**given(), out=tmp_path / "cut")
    assert contents(resumed.path) == contents(whole.path)


def test_a_finished_run_is_read_and_not_computed(script: Script, tmp_path: Path) -> None:
    first = optimize(**script(), out=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    recorder = Recorder()
    again = optimize(**script(), out=tmp_path, listener=recorder)
    assert again.resumed
    assert not first.resumed
    assert recorder.heard == []
    assert again.report == first.report or again.report.to_json() == first.report.to_json()
    for name, value in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed = 0, and this one has 4"),
        ({"max_drop": "1pt"}, "floor = '3pt', and this one has '1pt'"),
        ({"method": "static"}, "method = "),
        ({"minimize": "nonzeros"}, "minimize = 'bytes'"),
        ({"recipe": ig.Recipe(epochs=4, rung_epochs=1, lr=1e-2, ladder=(0.5, 0.9))}, "recipe.epochs = 3, and this one"),
        ({"ignore": ["4"]}, "ignore = None, and this one has"),
        ({"pretrained": True}, "pretrained = False"),
        ({"until": 0.5}, "until = None"),
    ],
)
def test_another_run_in_the_folder_is_refused_with_what_differs(
    change: dict[str, Any], named: str, script: Script, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        optimize(**script(), out=tmp_path, listener=Interrupter(1))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(RunError, match="another folder, or pass --force") as refusal:
        optimize(**script(**change), out=tmp_path)
    assert named in str(refusal.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "checkpoints"} == {
        path: stamp for path, stamp in before.items() if path.name != "checkpoints"
    }


def test_force_overwrites(script: Script, tmp_path: Path) -> None:
    optimize(**script(), out=tmp_path / "forced", seed=3)
    forced = optimize(**script(), out=tmp_path / "forced", force=True)
    fresh = optimize(**script(), out=tmp_path / "fresh")
    assert not forced.resumed
    assert contents(forced.path) == contents(fresh.path)


def test_force_removes_nothing_when_the_new_run_cannot_start(script: Script, tmp_path: Path) -> None:
    result = optimize(**script(), out=tmp_path)
    before = contents(result.path)
    with pytest.raises(TargetError):
        optimize(**script(targets=["nothing"]), out=tmp_path, force=True)
    assert contents(result.path) == before


# -- methods and listeners -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradual", "static", "one-shot", ig.Gradual(pattern="2:4"), "3:4"])
def test_methods_of_every_usage_arrive(method: Any, script: Script, tmp_path: Path) -> None:
    recorder = Recorder()
    # The ladder is 0.5 and 0.9; N:M patterns end at what they imply.
    ladder = [0.5] if isinstance(method, ig.Gradual) else [0.5, 0.9]
    if method == "3:4":
        method, ladder = ig.Gradual(pattern="3:4"), [0.25]
    result = optimize(**script(method=method, max_drop="60pt"), out=tmp_path, listener=recorder)
    size = 12 * 16 + 16 * 3
    measured = [sparsity for sparsity, _, _ in recorder.rungs][: len(ladder)]
    assert measured == pytest.approx(ladder, abs=1 / size)
    epochs = {"static": 3, "one-shot": 0}.get(method if isinstance(method, str) else "", 1)
    of_first_rung = [event for event in recorder.epochs if event.phase.startswith("rung 1,")]
    assert len(of_first_rung) == epochs
    assert result.report.balance.sparsity > 0.9 * ladder[0]


def test_a_listener_hears_all_of_it_in_order(script: Script, tmp_path: Path) -> None:
    recorder = Recorder()
    optimize(**script(), out=tmp_path, listener=recorder)
    assert recorder.heard[:2] == [f"planned {3 + (2 + 2) * 1}", "dense: 0 of 3"]
    assert recorder.heard[2].startswith("rung 1, 50 %: 0 of 1")
    dense = [event for event in recorder.epochs if event.phase == "dense"]
    assert [event.epoch for event in dense] == [1, 2, 3]
    assert [event.step for event in dense] == [5, 10, 15]
    assert all(event.sparsity == 0 for event in dense)
    assert recorder.shares[:15] == pytest.approx([(i + 1) / 15 for i in range(15)])
    rung = next(event for event in recorder.epochs if event.phase.startswith("rung"))
    assert rung.sparsity == pytest.approx(0.5, abs=0.01)
    assert rung.telemetry["mask_sparsity"] == pytest.approx(0.5, abs=0.01)


def test_dense_training_stops_at_a_threshold(script: Script, tmp_path: Path) -> None:
    recorder = Recorder()
    optimize(**script(until=0.5), out=tmp_path, listener=recorder)
    dense = [event for event in recorder.epochs if event.phase == "dense"]
    assert dense[-1].metric >= 0.5
    assert all(event.metric < 0.5 for event in dense[:-1])
    assert len(dense) < 3


# -- what is refused, before anything is trained ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"max_drop": None}, UsageError, "got neither; accepted is one of max_drop"),
        ({"floor": 0.9}, UsageError, "and floor=0.9; accepted is one of max_drop"),
        ({"max_drop": "half"}, FloorError, "'half' is not understood"),
        ({"minimize": "time"}, UsageError, "accepted are 'bytes', 'nonzeros', 'latency'"),
        ({"method": "gradul"}, UsageError, "did you mean 'gradual'"),
        ({"method": 3}, UsageError, "accepted is a Method or a method's name"),
        ({"seed": -1}, UsageError, "seed=-1"),
        ({"until": float("nan")}, UsageError, "until=nan"),
        ({"targets": ["encoder"]}, TargetError, "'encoder' matches no weight"),
        ({"method": ig.Gradual(pattern="2:5")}, PatternError, "0.weight does not fit the pattern"),
        ({"method": ig.Trigger(pattern="1:2")}, PatternError, "Trigger cannot hold pattern 1:2"),
        ({"method": HardConcrete(pattern="fan_in")}, PatternError, "HardConcrete cannot hold pattern fan_in"),
        ({"method": ig.Static(masks={"x": torch.ones(1, dtype=torch.bool)})}, TargetError, "The masks lack 0.weight"),
        ({"method": "keep"}, UsageError, "KeepZeros cannot be aimed at a sparsity"),
        ({"metric": Metric("loss", higher_is_better=False)}, FloorError, "loss is no percentage"),
        ({"example": torch.zeros(2, 7)}, UsageError, r"does not take its example inputs, \(2, 7\)"),
        ({"train": iter([1])}, UsageError, "an iterator, which ends after one pass"),
        ({"train": 5}, UsageError, "train is int"),
        ({"train": None}, UsageError, "needs train too"),
        ({"evaluate": None}, UsageError, "needs evaluate too"),
        ({"example": None}, UsageError, "needs example too"),
        ({"model": "digits"}, UsageError, "got train beside the task 'digits'"),
        ({**dict.fromkeys(LOOP), "model": "digits", "pretrained": True}, UsageError, "got pretrained beside the task"),
        ({**dict.fromkeys(LOOP), "model": "digits", "ignore": ["x"]}, UsageError, "got ignore beside the task"),
        ({"model": 3}, UsageError, "got int; accepted are a torch.nn.Module, a Task or a task's name"),
    ],
)
def test_bad_arguments_are_named_before_any_training(
    change: dict[str, Any], kind: type[Exception], said: str, script: Script, tmp_path: Path
) -> None:
    recorder = Recorder()
    with pytest.raises(kind, match=said):
        optimize(**script(**change), out=tmp_path / "run", listener=recorder)
    assert recorder.epochs == []
    assert not (tmp_path / "run").exists()


def test_what_is_missing_at_the_end_is_said_at_the_start(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else find(name))
    recorder = Recorder()
    with pytest.raises(
        MissingDependencyError, match=r"needs onnxscript; install it with: pip install 'isogrid\[onnx\]'"
    ):
        optimize(**script(), out=tmp_path, listener=recorder)
    assert recorder.epochs == []


def test_a_baseline_below_the_floor_is_refused_and_kept(script: Script, tmp_path: Path) -> None:
    with pytest.raises(FloorError, match="out of reach"):
        optimize(**script(max_drop=None, floor=1.0), out=tmp_path)
    assert (tmp_path / "checkpoints" / "dense-00.ckpt").is_file()


def test_weights_that_are_not_finite_are_refused(script: Script, tmp_path: Path) -> None:
    given = script()
    with torch.no_grad():
        given["model"][0].weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"0\.weight are not finite at the start"):
        optimize(**given, out=tmp_path)


def test_choice_and_verdict_take_no_notice_of_each_other(finished: OptimizeResult, tiny: ClassificationTask) -> None:
    """The balance point follows from validation metrics alone, the verdict from the test split alone."""
    report = finished.report
    cheapest = min(point.bytes for point in report.points if point.holds)
    assert [point.bytes for point in report.points if point.chosen] == [cheapest]
    dense = ig.load(finished.path / "dense.safetensors", into=tiny.model()).eval()
    verdict = confirm(tiny.metric, max_drop("2pt"), tiny.evaluate(dense, "test"), tiny.evaluate(finished.model, "test"))
    assert verdict == report.verdict


def test_a_finished_run_has_timed_its_models_and_its_result_says_nothing_of_it(finished: OptimizeResult) -> None:
    speed = finished.report.speed
    assert speed is not None
    packed = (finished.path / "model.packed.onnx").is_file()
    assert {row.model for row in speed.rows} == {"dense", "sparse", *(["packed"] if packed else [])}
    assert packed == ("model.packed.onnx" in finished.report.balance.files)
    assert "milliseconds" not in (finished.path / "result.json").read_text()
    assert "milliseconds" in (finished.path / "report.json").read_text()


def test_latency_is_an_objective_and_stands_in_the_frontier(tiny: ClassificationTask, tmp_path: Path) -> None:
    result = optimize(tiny, max_drop="2pt", minimize="latency", out=tmp_path / "run")
    points = json.loads((tmp_path / "run" / "frontier.json").read_text())
    assert all(point["latency"] > 0 for point in points)
    chosen = next(point for point in points if point["chosen"])
    assert chosen["latency"] == min(point["latency"] for point in points if point["holds"])
    assert json.loads((tmp_path / "run" / "result.json").read_text())["minimize"] == "latency"
    assert result.report.chosen is not None
    assert result.report.chosen.latency == chosen["latency"]


def test_a_rung_whose_metric_is_undefined_breaks_the_floor_and_the_run_goes_on(script: Script, tmp_path: Path) -> None:
    given = script(recipe=Recipe(epochs=3, rung_epochs=1, lr=1e-2, ladder=(0.5, 0.999)))
    measure = given["evaluate"]

    def undefined_where_sparse(model: nn.Module) -> Any:
        weights = torch.cat([part.flatten() for part in model.parameters() if part.dim() > 1])
        return math.nan if float((weights == 0).double().mean()) > 0.97 else measure(model)

    result = optimize(**{**given, "evaluate": undefined_where_sparse}, out=tmp_path)
    rungs = {point.rung for point in result.report.points}
    assert 1 in rungs
    assert 2 not in rungs
    assert all(point.sparsity < 0.97 for point in result.report.points)
    assert any(point.metric is None for point in result.report.history)
    with pytest.raises(UsageError, match="evaluate returned nan"):
        optimize(**script(evaluate=lambda _: math.nan), out=tmp_path / "dense")


def test_a_precision_that_cannot_hold_the_weights_is_left_out(script: Script, tmp_path: Path) -> None:
    given = script(pretrained=True, method="one_shot")
    with torch.no_grad():
        first = next(module for module in given["model"].modules() if isinstance(module, nn.Linear))
        first.weight.mul_(1e7)
    result = optimize(**given, out=tmp_path)
    assert {point.precision for point in result.report.points} == {"fp32", "int8"}


def test_what_cannot_be_exported_is_said_before_training(script: Script, tmp_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer = self.inner(x)
            return answer if bool(answer.sum() > 0) else 2 * answer

    given = script()
    with pytest.raises(UnsupportedError, match="Branching"):
        optimize(**{**given, "model": Branching(given["model"])}, out=tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_buffer_that_is_infinite_by_design_is_none_of_training(script: Script, tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.register_buffer("mask", torch.tensor([0.0, -math.inf]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + 0 * self.mask[0]

    given = script()
    assert optimize(**{**given, "model": Masked(given["model"])}, out=tmp_path).report.points


def test_a_loader_of_a_stream_has_no_length(script: Script, tiny: ClassificationTask, tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return zip(*tiny.data("train"), strict=True)

    loader = torch.utils.data.DataLoader(Stream(), batch_size=32)
    assert optimize(**script(train=loader), out=tmp_path).report.points


def test_a_run_is_not_resumed_with_other_batches(script: Script, tmp_path: Path) -> None:
    class Stop(Listener):
        def epoch_ended(self, event: EpochEnd) -> None:
            if event.epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(**script(), out=tmp_path, listener=Stop())
    given = script()
    other = torch.utils.data.DataLoader(given["train"].dataset, batch_size=16, shuffle=True)
    with pytest.raises(RunError, match=r"was trained with \d+ batches a pass, and now the data give \d+; accepted is"):
        optimize(**{**given, "train": other}, out=tmp_path)


def test_the_time_of_a_run_is_that_of_all_its_processes(script: Script, tmp_path: Path) -> None:
    class Stop(Listener):
        def epoch_ended(self, event: EpochEnd) -> None:
            if event.epoch == 3:
                raise KeyboardInterrupt

    hours = itertools.count(0, 3600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(hours)))
        with pytest.raises(KeyboardInterrupt):
            optimize(**script(), out=tmp_path, listener=Stop())
    assert optimize(**script(), out=tmp_path).report.seconds > 3600


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"floor": 95, "max_drop": None}, FloorError, r"The floor 95 is beyond 100 %.*accepted is '95%'"),
        ({"max_drop": 5}, FloorError, r"The floor 5 is beyond 100 %.*accepted is '5pt'"),
        ({"seed": 2**63}, UsageError, r"accepted is a whole number below 2\*\*63"),
        (
            {"example": {"x": torch.ones(1, 2)}},
            UsageError,
            r"optimize\(\) got an example of type dict; accepted are a tensor or the sequence of the positional",
        ),
    ],
)
def test_what_cannot_be_is_said_before_training(
    script: Script, changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        optimize(**script(**changes), out=tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_sparse_gradients_need_an_optimiser_that_takes_them(script: Script, tmp_path: Path) -> None:
    model = nn.Sequential(nn.EmbeddingBag(8, 4, sparse=True), nn.Linear(4, 2))
    with pytest.raises(UnsupportedError, match=r"0 has sparse gradients, which adam .* accepted are optimizer='sgd'"):
        optimize(**script(model=model, example=torch.zeros(2, 3, dtype=torch.long)), out=tmp_path)


def test_a_task_has_a_metric_and_a_recipe(tiny: ClassificationTask, tmp_path: Path) -> None:
    tiny.metric = "accuracy"  # type: ignore[assignment,misc]
    with pytest.raises(UsageError, match="needs a Metric as its attribute metric, and has 'accuracy'"):
        optimize(tiny, max_drop="1pt", out=tmp_path)


def test_one_number_is_distilled_by_its_square(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    y = x @ torch.randn(4, 1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)

    def error(model: nn.Module) -> Outcomes:
        return Outcomes((model(x) - y).square().numpy())

    result = optimize(
        nn.Linear(4, 1), train=loader, evaluate=error, example=x[:2], max_drop=5.0, match_dense=False,
        loss=lambda answer, batch: nn.functional.mse_loss(answer, batch[1]),
        metric=Metric("error", higher_is_better=False), out=tmp_path,
        recipe=Recipe(epochs=3, rung_epochs=2, lr=1e-2, ladder=(0.5,), distill=1.0),
    )  # fmt: skip
    assert all(point.loss > 0 for point in result.report.history)


def test_a_cache_that_no_file_holds_may_be_infinite(script: Script, tmp_path: Path) -> None:
    """As the mask of causal attention is, where it is made at the first call."""

    class Caching(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.register_buffer("mask", torch.zeros(2), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.mask = torch.tensor([0.0, -math.inf])
            return self.inner(x)

    given = script()
    assert optimize(**{**given, "model": Caching(given["model"])}, out=tmp_path).report.points
