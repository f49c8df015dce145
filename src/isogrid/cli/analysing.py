"""What a model bears: sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from isogrid.cli.app import app
from isogrid.cli.options import method_of, numbers
from isogrid.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from isogrid.tasks import Task


@app.command()
def sensitivity(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A ready task's name or the path of a task file.")],
    model: Annotated[
        Path | None,
        typer.Option(help="The trained weights: a finished run's directory (its dense model) or a .safetensors file."),
    ] = None,
    at: Annotated[str, typer.Option(help="The sparsities to try.")] = "0.5,0.7,0.8,0.9,0.95,0.98",
    method: Annotated[str, typer.Option(help="What prunes: a method that works after training.")] = "one_shot",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the method; repeatable."),
    ] = None,
    max_drop: Annotated[
        str | None, typer.Option(help="Also show the sparsity up to which each layer loses no more: 0.5pt, 1%.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with a map of the layers there.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Prune each layer of a trained model alone and show what the validation metric loses."""
    import torch

    from isogrid import floor as floors
    from isogrid.frontier.training import calibration_batches
    from isogrid.report.terminal import render_sensitivity
    from isogrid.sparsify.sensitivity import sensitivity as analyse
    from isogrid.tasks import load_task

    floor = None if max_drop is None else floors.max_drop(max_drop)
    for given in option or []:
        if given.partition("=")[0].strip() == "sparsity":
            raise UsageError(f"--option got {given!r}; accepted for sparsities is --at, such as --at 0.5,0.9.")
    loaded = load_task(task)
    chosen = method_of(method, option or [])
    torch.manual_seed(seed)
    trained = _trained(loaded, model)
    console = Console(stderr=True)
    with console.status("measuring the model as it is") as status:
        found = analyse(
            trained, lambda one: loaded.evaluate(one, "validation"), sparsities=numbers("--at", at), method=chosen,
            metric=loaded.metric, targets=loaded.targets, ignore=loaded.ignore,
            data=calibration_batches(loaded, seed) if chosen.needs_data else None,
            forward=loaded.forward, loss=loaded.loss, on_layer=lambda name: status.update(f"pruning {name}"), seed=seed,
        )  # fmt: skip
    bears = None
    if floor is not None:
        limit = floor.limit(loaded.metric, found.baseline)
        bears = found.bearable(loaded.metric.worse_by(found.baseline, limit))
    render_sensitivity(found, Console(), bears)
    if html is not None:
        from isogrid.report.html import write_sensitivity

        write_sensitivity(found, loaded.name, html)


def _trained(task: Task, path: Path | None) -> nn.Module:
    """The task's model with trained weights."""
    from isogrid.formats.model import load

    fresh = task.model()
    if path is None:
        if not task.pretrained:
            raise UsageError(
                f"The task {task.name} is not pretrained; give --model, a finished run's directory or a .safetensors "
                "file of trained weights."
            )
        return fresh.eval()
    file = path / "dense.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{file} is missing; accepted for --model is a finished run's directory or a weights file.")
    return load(file, into=fresh).eval()
