"""The main job and what belongs to it: optimize, report, compare, tasks, methods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isogrid.cli.app import app, command_line
from isogrid.cli.options import method_of, numbers
from isogrid.errors import FloorNotHeldError, UsageError

if TYPE_CHECKING:
    from isogrid.frontier import OptimizeResult
    from isogrid.frontier.events import Listener
    from isogrid.tasks import Task

_TASK = typer.Argument(metavar="TASK", help="A ready task's name (see: isogrid tasks) or the path of a task file.")


@app.command()
def optimize(
    task: Annotated[str, _TASK],
    max_drop: Annotated[
        str | None,
        typer.Option(help="Most that may be lost against the dense model: 0.5pt, 1%, or units of the metric."),
    ] = None,
    floor: Annotated[str | None, typer.Option(help="Instead: the metric that must hold, such as 0.95 or 95%.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/TASK by default.")] = None,
    minimize: Annotated[str, typer.Option(help="What to make small: bytes, nonzeros or latency.")] = "bytes",
    method: Annotated[str, typer.Option(help="What makes the zeros (see: isogrid methods).")] = "gradual",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the method; repeatable."),
    ] = None,
    setting: Annotated[
        str | None, typer.Option(help="How long a ready task may take, where it has several: smoke, fast or full.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data for the dense baseline.")] = None,
    rung_epochs: Annotated[int | None, typer.Option(help="Passes for each rung of the climb.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    rung_lr: Annotated[float | None, typer.Option(help="Peak learning rate of the rungs.")] = None,
    ladder: Annotated[str | None, typer.Option(help="Sparsities to climb through, such as 0.5,0.9,0.95.")] = None,
    distill: Annotated[
        float | None, typer.Option(help="Weight of the dense model's answers in a rung's loss, 0 to 1.")
    ] = None,
    match_dense: Annotated[
        bool, typer.Option(help="Train the dense model for as many steps as the longest climb.")
    ] = True,
    until: Annotated[float | None, typer.Option(help="Stop dense training at this validation metric.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that torch may use.")] = None,
    log: Annotated[str | None, typer.Option(help="Also log scalars: tensorboard.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite another run in the directory.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict only.")] = False,
) -> None:
    """Find the balance point of a task.

    That is the smallest model, by its zeros and by the bits of what is left, that holds the accuracy floor.  A run
    that was interrupted goes on when the same command is given again.
    """
    import torch

    from isogrid.frontier import optimize as run_job
    from isogrid.tasks import load_task

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_task(task) if setting is None else load_task(task).at(setting)
    recipe = loaded.recipe.with_(
        epochs=epochs, rung_epochs=rung_epochs, lr=lr, rung_lr=rung_lr, distill=distill,
        ladder=None if ladder is None else numbers("--ladder", ladder),
    )  # fmt: skip
    folder = out if out is not None else Path("runs") / Path(task).stem
    # Progress is no output: it goes where it does not disturb what is piped on.
    listener = _listeners(Console(stderr=True, quiet=quiet), loaded, folder, log)
    try:
        result = run_job(
            loaded, out=folder, max_drop=max_drop, floor=floor, minimize=minimize,
            method=method_of(method, option or []), recipe=recipe, match_dense=match_dense, until=until,
            seed=seed, force=force, listener=listener, command=command_line(),
        )  # fmt: skip
    finally:
        listener.closed()
    _show(result, Console(), quiet=quiet)
    if result.verdict == "broken":
        raise FloorNotHeldError(
            f"The test split says that the floor {result.report.floor.text} is broken; the frontier is in {folder}."
        )


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    html: Annotated[Path | None, typer.Option(help="Also write the page there.")] = None,
) -> None:
    """Show the report of a finished run again."""
    from isogrid.report.html import write_html
    from isogrid.report.reading import read_report
    from isogrid.report.terminal import render

    data = read_report(run)
    render(data, Console())
    if html is not None:
        write_html(data, html)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Directories of finished runs.")],
    html: Annotated[Path | None, typer.Option(help="Also write a page with their curves there.")] = None,
) -> None:
    """Lay finished runs side by side."""
    from isogrid.report.comparison import read_runs
    from isogrid.report.terminal import render_comparison

    read = read_runs(runs)
    render_comparison(read, Console())
    if html is not None:
        from isogrid.report.html import write_comparison

        write_comparison(read, html)


@app.command()
def tasks() -> None:
    """List the ready tasks."""
    from isogrid.tasks import ready_tasks

    _listing({name: cls.summary for name, cls in ready_tasks().items()}, "task", "what it is")


@app.command()
def methods() -> None:
    """List the methods that make zeros.

    The main job climbs through rising sparsities with a method, restarts for each, or prunes after training; a method
    without a sparsity is for training loops of your own.
    """
    from isogrid.sparsify import methods as registered

    table = Table("method", "main job", "what it does")
    for name, entry in registered().items():
        implied = ", ".join(f"{option}={value}" for option, value in entry.implied.items())
        summary = entry.summary.replace("``", "") + (f" Here {implied}." if implied else "")
        table.add_row(name, entry.cls.usage.value if entry.cls.has_sparsity() else "", Text(summary))
    Console().print(table)


def _listeners(console: Console, task: Task, folder: Path, log: str | None) -> Listener:
    from isogrid.frontier.events import Listeners
    from isogrid.frontier.progress import TerminalProgress

    if log not in (None, "tensorboard"):
        raise UsageError(f"--log got {log!r}; accepted is tensorboard.")
    listeners: list[Listener] = [TerminalProgress(console, task.metric)]
    if log is not None:
        from isogrid.frontier.tensorboard import TensorBoardLog

        listeners.append(TensorBoardLog(folder / "tensorboard"))
    return Listeners(listeners)


def _show(result: OptimizeResult, console: Console, *, quiet: bool) -> None:
    from isogrid.report.terminal import render

    if quiet:
        balance = result.report.balance
        sparse = f"{100 * balance.sparsity:.2f} % sparse"
        print(f"{result.verdict}: {sparse}, {balance.bytes} bytes, {balance.precision}, {result.path}")
        return
    render(result.report, console)
    files = ", ".join(["report.html", *result.report.balance.files])
    console.print(f"In {result.path}: {files}", highlight=False, markup=False)
    if result.resumed:
        console.print(
            "This run was finished before and is shown as it is; pass --force to run it anew.", highlight=False
        )


def _listing(rows: dict[str, str], first: str, second: str) -> None:
    table = Table(first, second)
    for name, text in rows.items():
        table.add_row(name, text)
    Console().print(table)
