"""The main job: from a dense model to its balance point."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isogrid.errors import UnsupportedError, UsageError
from isogrid.floor import Floor
from isogrid.formats import onnx as onnx_format
from isogrid.formats.model import load
from isogrid.frontier.climb import SearchPlan
from isogrid.frontier.events import Listener
from isogrid.frontier.loop_task import LoopTask
from isogrid.frontier.points import check_minimize
from isogrid.frontier.rundir import RunDirectory
from isogrid.frontier.torch_workshop import TorchWorkshop
from isogrid.frontier.training import Trainer, build_optimizer
from isogrid.frontier.work import OptimizeResult, check_libraries, check_numbers, choose_floor, configuration, run_job
from isogrid.masks import find_targets
from isogrid.metrics import ACCURACY, Metric
from isogrid.sparsify import Method, SparseState, parse_climbing
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.state import dense_layers
from isogrid.tasks import Recipe, Task, load_task
from isogrid.tasks.task import check_task


def optimize(
    model: nn.Module | Task | str,
    *,
    out: str | Path,
    max_drop: str | float | None = None,
    floor: str | float | None = None,
    minimize: str = "bytes",
    method: Method | str = "gradual",
    train: Iterable[Any] | None = None,
    evaluate: Callable[[nn.Module], Any] | None = None,
    test: Callable[[nn.Module], Any] | None = None,
    example: Tensor | tuple[Tensor, ...] | None = None,
    loss: Callable[[Tensor, Any], Tensor] | None = None,
    forward: Callable[[nn.Module, Any], Tensor] | None = None,
    metric: Metric = ACCURACY,
    pretrained: bool = False,
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    match_dense: bool = True,
    until: float | None = None,
    seed: int = 0,
    force: bool = False,
    listener: Listener | None = None,
    command: str | None = None,
) -> OptimizeResult:
    """Make a model as small as its accuracy floor allows, and show the whole trade-off.

    A dense baseline is trained (or taken, if pretrained), then a climb goes through rising sparsities with recovery
    training at each, measures every rung at fp32, fp16 and int8 weights on the validation split, and bisects where the
    floor breaks.  The cheapest point that holds the floor is confirmed on the test split, written to the run
    directory, and checked: the ONNX file is run and must answer as the model does.

    Args:
        model: a module (then `train`, `evaluate` and `example` are needed), a `Task`, or a ready task's name or file.
        out: the run directory.  A run that was killed goes on there; a finished one is read, not computed again.
        max_drop: the most that may be lost against the dense baseline: ``"0.5pt"``, ``"1%"`` or a number in units of
            the metric.
        floor: instead of `max_drop`, the metric itself that must hold: ``0.95`` or ``"95%"``.
        minimize: ``"bytes"`` of the file, ``"nonzeros"``, or ``"latency"``: what the cost model expects a call on the
            native kernels to take, which is the same in every run.
        method: a method's name or a method; its sparsity is set by the climb.
        train, evaluate, test, example, loss, forward, metric, pretrained, targets, ignore: see `LoopTask`; only with a
            module.
        recipe: how long and how to train; a task has its own.
        match_dense: train the dense model for as many steps as the longest climb, and take its best cycle as baseline.
        until: stop dense training as soon as the validation metric reaches this.
        seed: of initial weights, data order and every random choice.
        force: overwrite another run in `out`.
        listener: hears of the progress.
        command: how the report says this run is repeated.

    Raises:
        IsogridError: one of its kinds for every bad argument, missing data, diverging training or damaged file.
    """
    listener = listener or Listener()
    task = _task(
        model, train=train, evaluate=evaluate, test=test, example=example, loss=loss, forward=forward, metric=metric,
        recipe=recipe, pretrained=pretrained, targets=targets, ignore=ignore,
    )  # fmt: skip
    chosen_method = _method(method)
    chosen_recipe = _recipe(task.recipe if recipe is None else recipe, chosen_method)
    objective = check_minimize(minimize)
    check_numbers(seed, until)
    plan = SearchPlan(chosen_method, choose_floor(max_drop, floor), match_dense=match_dense, until=until)
    run = RunDirectory(out)
    with _own_random_numbers(task):
        trainer = Trainer(task, chosen_recipe, run, seed, listener)
        fresh = trainer.new_model()
        config = configuration(
            plan, chosen_recipe, objective, seed, task=task.name, setting=task.setting,
            metric=dataclasses.asdict(task.metric), model=_digest(fresh), pretrained=task.pretrained,
            targets=task.targets, ignore=task.ignore,
        )  # fmt: skip
        return run_job(
            run,
            config,
            plan,
            objective,
            force=force,
            check=lambda: _check_job(task, fresh, chosen_method, plan.floor, chosen_recipe),
            workshop=lambda: TorchWorkshop(trainer),
            read=lambda folder: load(folder / "model.safetensors", into=fresh).eval(),
            listener=listener,
            about={
                "title": f"{task.name}: the balance point",
                "task": task.summary,
                "command": command or f"isogrid.optimize({task.name!r}, ...)",
            },
        )


def _task(model: nn.Module | Task | str, **loop: Any) -> Task:
    if isinstance(model, str):
        model = load_task(model)
    if isinstance(model, Task):
        check_task(model)
        defaults = {"recipe": loop["recipe"], "metric": ACCURACY, "pretrained": False}
        given = [name for name, value in loop.items() if value is not defaults.get(name)]
        if given:
            raise UsageError(
                f"optimize() got {given[0]} beside the task {model.name!r}, which has its own; pass a module instead."
            )
        return model
    if _is_of_keras(model):
        raise UsageError(
            f"optimize() got the Keras model {type(model).__name__}; isogrid.keras.optimize is the one that takes it."
        )
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"optimize() got {type(model).__name__}; accepted are a torch.nn.Module, a Task or a task's name."
        )
    missing = [name for name in ("train", "evaluate", "example") if loop[name] is None]
    if missing:
        raise UsageError(
            f"optimize() of a module needs {missing[0]} too; accepted are train, evaluate and example together."
        )
    return LoopTask(model, name=type(model).__name__, **loop)


def _is_of_keras(model: object) -> bool:
    """Told by name: nobody who works with PyTorch has Keras loaded for this.  On PyTorch its models are modules too."""
    return any(cls.__module__.partition(".")[0] in ("keras", "tf_keras") for cls in type(model).__mro__)


def _method(method: Method | str) -> Method:
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise UsageError(f"optimize() got method={method!r}; accepted is a Method or a method's name.")
    return parse_climbing(method)


def _recipe(recipe: Recipe, method: Method) -> Recipe:
    """The recipe with a ladder that the method can climb: a pattern such as 2:4 ends at the sparsity it implies."""
    most = method.target_pattern.implied_sparsity if isinstance(method, Selecting) else None
    if most is None:
        return recipe
    return dataclasses.replace(recipe, ladder=[*(rung for rung in recipe.ladder if rung < most), most])


def _check_job(task: Task, fresh: nn.Module, method: Method, floor: Floor, recipe: Recipe) -> None:
    """Whatever can be known before the training: libraries, floor, targets, method, example.

    Raises:
        MissingDependencyError, FloorError, TargetError, PatternError, UnsupportedError, UsageError: what does not fit.
    """
    check_libraries(("onnx", "onnxscript", "onnxruntime"))
    floor.check(task.metric)
    example = task.example()
    if not isinstance(example, tuple):
        raise UsageError(
            f"example() of {task.name} returned {type(example).__name__}; accepted is a tuple of the model's inputs."
        )
    _check_sparse_gradients(fresh, recipe)
    layers = dense_layers(find_targets(fresh, task.targets, task.ignore))
    state = SparseState(layers, total_steps=1, seed=0, optimizer=build_optimizer(fresh, recipe, recipe.lr), model=fresh)
    method.at(recipe.ladder[0]).check(state)
    try:
        with torch.no_grad():
            copy.deepcopy(fresh).eval()(*example)
    except Exception as problem:
        shapes = ", ".join(str(tuple(part.shape)) if isinstance(part, Tensor) else repr(part) for part in example)
        raise UsageError(
            f"The model does not take its example inputs, {shapes}: {type(problem).__name__}: {problem}"
        ) from problem
    if any(isinstance(part, Tensor) and part.numel() == 0 for part in example):
        return  # nobody could export that, and what is wrong with the data is better said by the training
    # What cannot be exported is better known now than when all training is over.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx_format.export(copy.deepcopy(fresh).eval(), path, example, free_axes=task.free_axes())


def _check_sparse_gradients(model: nn.Module, recipe: Recipe) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            if recipe.optimizer == "sgd" and recipe.weight_decay == 0:
                continue
            raise UnsupportedError(
                f"{name} has sparse gradients, which {recipe.optimizer} with weight_decay={recipe.weight_decay:g} does "
                "not take; accepted are optimizer='sgd' without weight decay, and sparse=False."
            )


def _digest(model: nn.Module) -> str:
    """What tells one model from another when a run is resumed: names, shapes and initial weights."""
    sha = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise UnsupportedError(
                f"The model's state holds {name}, a {type(value).__name__}; accepted are tensors, so keep no extra "
                "state."
            )
        sha.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


@contextlib.contextmanager
def _own_random_numbers(task: Task) -> Iterator[None]:
    """The job seeds every generator; the caller's go on afterwards as if nothing had happened."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is meant
    held = [(one, one.get_state()) for one in (task.generators() if isinstance(task, LoopTask) else ())]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)  # noqa: NPY002
            for generator, state in held:
                generator.set_state(state)
