"""The main job for Keras models: from a dense model to its balance point."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from isogrid.errors import UsageError
from isogrid.frontier.climb import SearchPlan
from isogrid.frontier.events import Listener
from isogrid.frontier.points import check_minimize
from isogrid.frontier.rundir import RunDirectory
from isogrid.frontier.work import OptimizeResult, check_libraries, check_numbers, choose_floor, configuration, run_job
from isogrid.integrations.keras.copying import Compiled, copy_of
from isogrid.integrations.keras.data import Data
from isogrid.integrations.keras.exporting import check_exporter
from isogrid.integrations.keras.judging import Judge
from isogrid.integrations.keras.methods import SET, Aimed, Aware, Gradual, Method, OneShot, RigL, Static, Trigger
from isogrid.integrations.keras.recipe import Recipe
from isogrid.integrations.keras.riding import inner_optimizer
from isogrid.integrations.keras.state import SparseState
from isogrid.integrations.keras.step_size import check_optimizer
from isogrid.integrations.keras.targets import find_targets
from isogrid.integrations.keras.training import Bench
from isogrid.integrations.keras.weights import read
from isogrid.integrations.keras.workshop import KerasWorkshop, Weights, finished
from isogrid.metrics import Metric
from isogrid.names import canonical, unknown_name

_METHODS: dict[str, type[Aimed]] = {
    "gradual": Gradual, "static": Static, "trigger": Trigger, "aware": Aware, "set": SET, "rigl": RigL,
    "one_shot": OneShot,
}  # fmt: skip


def optimize(
    model: Any,
    *,
    train: Any,
    validation: Any,
    out: str | Path,
    test: Any = None,
    max_drop: str | float | None = None,
    floor: str | float | None = None,
    minimize: str = "bytes",
    method: Method | str = "gradual",
    metric: Metric | str | None = None,
    loss: Any = None,
    optimizer: Any = None,
    pretrained: bool = False,
    targets: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    recipe: Recipe | None = None,
    match_dense: bool = True,
    until: float | None = None,
    seed: int = 0,
    force: bool = False,
    listener: Listener | None = None,
    command: str | None = None,
) -> OptimizeResult:
    """The main job, as `isogrid.optimize` does it, for a Keras model and the data that Keras takes.

    The run directory gets the frontier, the report, ``model.keras``, ``model.safetensors``, ``model.onnx``, and
    ``model.packed.onnx`` where a layer gains from the native kernels.

    Args:
        model: sequential, functional, or subclassed with ``get_config``; left as it is.  Its weights now are where
            dense training starts.  Loss, optimiser and metrics are those it was compiled with.
        train, validation, test: ``(x, y)`` or ``(x, y, sample_weight)`` of arrays, lists or dicts of arrays, or batches
            from anything that starts anew at each pass (``tf.data.Dataset``, ``PyDataset``, ``DataLoader``, a list).
            They should share no sample; without `test` nothing can be confirmed.
        out: the run directory.  A run that was killed goes on there; a finished one is read, not computed again.
        max_drop: the most that may be lost against the dense baseline: ``"0.5pt"``, ``"1%"`` or a number in units of
            the metric.
        floor: instead of `max_drop`, the metric itself that must hold: ``0.95`` or ``"95%"``.
        minimize: ``"bytes"`` of the file or ``"nonzeros"``.
        method: a method of `isogrid.keras` or its name; its sparsity is set by the climb.
        metric: the name of a logged metric, or a `Metric` of that name; by default see `Judge`.
        loss, optimizer: for a model that is not compiled; Adam by default.
        pretrained: the model is the dense baseline as it stands.
        targets, ignore: names or regular expressions, see `find_targets`.
        recipe: how long and how fast to train.
        match_dense: train the dense model for as many steps as the longest climb, and take its best cycle as baseline.
        until: stop dense training as soon as the validation metric reaches this.
        seed: of data order and every random choice.
        force: overwrite another run in `out`.
        listener: hears of the progress.
        command: how the report says this run is repeated.

    Returns:
        The run directory, the report, and the balance point's model, compiled as `model` was.

    Raises:
        IsogridError: one of its kinds for every bad argument, missing data, diverging training or damaged file.

    >>> result = optimize(model, train=(x, y), validation=(v, w), max_drop="1pt", out="run")     # doctest: +SKIP
    """
    if not isinstance(model, keras.Model):
        raise UsageError(f"optimize() got {type(model).__name__}; accepted is a Keras 3 model.")
    check_numbers(seed, until)
    chosen = _method(method)
    objective = check_minimize(minimize)
    if objective == "latency":
        raise UsageError("optimize() of a Keras model got minimize='latency'; accepted are 'bytes' and 'nonzeros'.")
    plan = SearchPlan(chosen, choose_floor(max_drop, floor), match_dense=match_dense, until=until)
    compiled = Compiled(model, loss, optimizer)
    given = _recipe(recipe or Recipe(), chosen, compiled)
    data = {
        name: Data(name, split, given.batch_size)
        for name, split in (("train", train), ("validation", validation), ("test", test))
        if split is not None
    }
    run = RunDirectory(out)
    with _own_random_numbers(seed):
        batch = data["train"].first()
        own = copy_of(model, batch[0])
        compiled.apply(own)
        judge = Judge(own, batch, metric)
        selection: dict[str, Any] = {"targets": targets, "ignore": ignore}
        bench = Bench(
            own, compiled, judge, data, find_targets(own, **selection), selection, run, listener or Listener(), seed
        )
        config = configuration(
            plan, given, objective, seed, task=model.name, metric=dataclasses.asdict(judge.metric), model=_digest(own),
            keras={"backend": keras.backend.backend(), "optimizer": _described(own.optimizer)}, pretrained=pretrained,
            targets=targets, ignore=ignore,
        )  # fmt: skip
        inputs = batch[0]
        result = run_job(
            run,
            config,
            plan,
            objective,
            force=force,
            check=lambda: _check_job(bench, chosen, plan, given),
            workshop=lambda: KerasWorkshop(model.name, bench, given, pretrained=pretrained),
            read=lambda folder: keras.models.load_model(folder / "model.keras"),
            listener=bench.listener,
            about={
                "title": f"{model.name}: the balance point",
                "task": "a Keras model from a script",
                "command": command or "isogrid.keras.optimize(model, ...)",
                "versions": _versions(),
            },
        )
        if isinstance(result.model, Weights):
            result = dataclasses.replace(result, model=finished(own, compiled, inputs, result.model))
    return result


def _method(method: Method | str) -> Any:
    if isinstance(method, str):
        name = canonical(method)
        if name not in _METHODS:
            raise unknown_name("method", method, _METHODS)
        return _METHODS[name](sparsity=0.5)
    if not isinstance(method, Aimed):
        raise UsageError(f"optimize() got method={method!r}; accepted is a method of isogrid.keras, or its name.")
    return method


def _recipe(recipe: Recipe, method: Aimed, compiled: Compiled) -> Recipe:
    """The recipe with the optimiser's rate where it has none, and a ladder that the method's pattern can climb."""
    if not isinstance(recipe, Recipe):
        raise UsageError(f"optimize() got recipe={recipe!r}; accepted is an isogrid.keras.Recipe.")
    if recipe.lr is None and compiled.rate is not None:
        recipe = dataclasses.replace(recipe, lr=compiled.rate)
    most = method.target_pattern.implied_sparsity
    if most is None:
        return recipe
    return dataclasses.replace(recipe, ladder=[*(rung for rung in recipe.ladder if rung < most), most])


def _check_job(bench: Bench, method: Any, plan: SearchPlan, recipe: Recipe) -> None:
    """Whatever can be known before the training: libraries, floor, steps, method and validation data."""
    check_libraries(("jinja2", "matplotlib"))
    check_exporter()
    plan.floor.limit_from(bench.judge.metric, 1.0)
    assert bench.data["train"].steps
    state = SparseState(bench.targets, method, total_steps=1, seed=0)
    Aimed.begin(method.at(recipe.ladder[0]), state)  # the part that looks at patterns, and changes nothing
    if method.scalars():
        check_optimizer(inner_optimizer(bench.model.optimizer))
    bench.judge(bench.model, bench.data["validation"])


def _digest(model: Any) -> str:
    """What tells one model from another when a run is resumed: shapes and initial weights."""
    sha = hashlib.sha256()
    for array in read(model).values():
        sha.update(f"{array.shape} {array.dtype}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def _described(optimizer: Any) -> str:
    config = {name: value for name, value in optimizer.get_config().items() if name != "name"}
    return f"{type(optimizer).__name__} {config}"


def _versions() -> dict[str, str]:
    backend = keras.backend.backend()
    found = {"keras": keras.__version__}
    for package in (backend, f"{backend}-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[backend] = importlib.metadata.version(package)
    return found


@contextlib.contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """The job seeds every generator; the caller's go on afterwards as if nothing had happened."""
    torch: Any = sys.modules.get("torch")
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is meant
    torch_state = torch.random.get_rng_state() if torch is not None else None
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if torch is not None:
            torch.random.set_rng_state(torch_state)
