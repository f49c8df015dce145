"""The command line: thin verbs over the public API."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from rich.table import Table

from isogrid.errors import FloorNotHeldError, IsogridError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from isogrid.frontier import OptimizeResult
    from isogrid.frontier.events import Listener
    from isogrid.sparsify import Method
    from isogrid.tasks import Task

app = typer.Typer(
    name="isogrid",
    help="Small, fast neural networks that hold an accuracy you name.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

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
    minimize: Annotated[str, typer.Option(help="What to make small: bytes or nonzeros.")] = "bytes",
    method: Annotated[str, typer.Option(help="What makes the zeros (see: isogrid methods).")] = "gradual",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the method; repeatable."),
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
    """Find the balance point of a task: as sparse and as few bits as its accuracy floor allows.

    A run that was interrupted goes on when the same command is given again.
    """
    import torch

    from isogrid.frontier import optimize as run_job
    from isogrid.names import canonical
    from isogrid.tasks import load_task

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_task(task)
    recipe = loaded.recipe.with_(
        epochs=epochs, rung_epochs=rung_epochs, lr=lr, rung_lr=rung_lr, distill=distill,
        ladder=None if ladder is None else _numbers("--ladder", ladder),
    )  # fmt: skip
    folder = out if out is not None else Path("runs") / Path(task).stem
    console = Console(quiet=quiet)
    listener = _listeners(console, loaded, folder, log)
    try:
        result = run_job(
            loaded, out=folder, max_drop=max_drop, floor=floor, minimize=minimize,
            method=_method(canonical(method), option or []), recipe=recipe, match_dense=match_dense, until=until, seed=seed,
            force=force, listener=listener, command=_command_line(),
        )  # fmt: skip
    finally:
        listener.closed()
    _show(result, Console(), quiet=quiet)
    if result.verdict == "broken":
        raise FloorNotHeldError(
            f"The test split says that the floor {result.report.floor.text} is broken; the frontier is in {folder}."
        )


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A run directory, an .onnx or a .safetensors file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what a file really holds: zeros, nonzeros, parameters and bytes, in all and by layer."""
    from isogrid.inspection import inspect as look

    found = look(path)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    console = Console()
    table = Table(title=str(path), caption=_totals(found.to_json()))
    for name, right in (
        ("layer", False),
        ("shape", False),
        ("parameters", True),
        ("nonzeros", True),
        ("sparsity", True),
    ):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for layer in found.to_json()["layers"]:
        table.add_row(
            layer["name"], " x ".join(map(str, layer["shape"])), f"{layer['parameters']:,}", f"{layer['nonzeros']:,}",
            f"{100 * layer['sparsity']:.2f} %",
        )  # fmt: skip
    console.print(table)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    html: Annotated[Path | None, typer.Option(help="Also write the page there.")] = None,
) -> None:
    """Show the report of a finished run again."""
    from isogrid.report.data import ReportData
    from isogrid.report.html import write_html
    from isogrid.report.terminal import render

    path = run / "report.json"
    if not path.is_file():
        raise UsageError(f"{run} is no finished run: report.json is missing; give the --out of isogrid optimize.")
    data = ReportData.from_json(path.read_bytes())
    render(data, Console())
    if html is not None:
        write_html(data, html)


@app.command()
def tasks() -> None:
    """List the ready tasks."""
    from isogrid.tasks import ready_tasks

    _listing({name: cls.summary for name, cls in ready_tasks().items()}, "task", "what it is")


@app.command()
def methods() -> None:
    """List the methods that make zeros, and how the main job uses each."""
    from isogrid.sparsify import methods as registered

    table = Table("method", "main job", "what it does")
    for name, entry in registered().items():
        table.add_row(name, entry.cls.usage.value, entry.summary)
    Console().print(table)


@app.command()
def info() -> None:
    """Show versions and what this CPU offers."""
    from isogrid import _native
    from isogrid.frontier.job import versions

    table = Table("what", "value")
    for name, value in versions().items():
        table.add_row(name, value)
    features = _native.cpu_features()
    table.add_row(
        "cpu", ", ".join(name if value is True else f"{name} {value}" for name, value in features.items() if value)
    )
    Console().print(table)


def main() -> None:
    """The entry point: every error that can be foreseen is one sentence and an exit code."""
    sys.exit(_run())


def _run() -> int:
    errors = Console(stderr=True)
    try:
        app(standalone_mode=False)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as problem:
        problem.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        errors.print("Interrupted. Give the same command again to go on from the last finished pass.", highlight=False)
        return 130
    except IsogridError as problem:
        errors.print(f"[red]Error:[/red] {_escape(str(problem))}", highlight=False)
        return problem.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ImportError as problem:
        missing = MissingDependencyError(
            f"This command needs {problem.name or problem}, which is not installed; install it with: pip install 'isogrid[all]'."
        )
        if os.environ.get("ISOGRID_TRACEBACK"):
            raise
        errors.print(f"[red]Error:[/red] {_escape(str(missing))}", highlight=False)
        return missing.exit_code
    except Exception as problem:
        if os.environ.get("ISOGRID_TRACEBACK"):
            raise
        errors.print(
            f"[red]Error:[/red] {type(problem).__name__}: {_escape(str(problem))} ({_where(problem)}; set ISOGRID_TRACEBACK=1 to "
            "see the whole traceback).",
            highlight=False,
        )
        return 1
    return 0


def _where(problem: BaseException) -> str:
    trace = problem.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}" if trace is not None else "no line known"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _listeners(console: Console, task: Task, folder: Path, log: str | None) -> Listener:
    from isogrid.frontier.events import Listeners
    from isogrid.frontier.progress import TerminalProgress

    listeners: list[Listener] = [TerminalProgress(console, task.metric)]
    if log is not None:
        if log != "tensorboard":
            raise UsageError(f"--log got {log!r}; accepted is tensorboard.")
        from isogrid.frontier.tensorboard import TensorBoardLog

        listeners.append(TensorBoardLog(folder / "tensorboard"))
    return Listeners(listeners)


def _method(name: str, options: list[str]) -> Method:
    from isogrid.sparsify import methods as registered
    from isogrid.sparsify import parse_method

    given: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise UsageError(f"--option got {option!r}; accepted is NAME=VALUE, such as pattern=2:4.")
        try:
            given[key.strip()] = json.loads(text)
        except ValueError:
            given[key.strip()] = text
    if name in registered() and "sparsity" not in given and "pattern" not in given:
        given["sparsity"] = 0.5
    return parse_method(name, **given)


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} got {text!r}; accepted are numbers with commas between them, such as 0.5,0.9."
        ) from None


def _command_line() -> str:
    return shlex.join(["isogrid", *sys.argv[1:]])


def _show(result: OptimizeResult, console: Console, *, quiet: bool) -> None:
    from isogrid.report.terminal import render

    if quiet:
        balance = result.report.balance
        print(
            f"{result.verdict}: {100 * balance.sparsity:.2f} % sparse, {balance.bytes} bytes, {balance.precision}, {result.path}"
        )
        return
    render(result.report, console)
    files = ", ".join(["report.html", *result.report.balance.files])
    console.print(f"In {result.path}: {files}", highlight=False)
    if result.resumed:
        console.print(
            "This run was finished before and is shown as it is; pass --force to run it anew.", highlight=False
        )


def _listing(rows: dict[str, str], first: str, second: str) -> None:
    table = Table(first, second)
    for name, text in rows.items():
        table.add_row(name, text)
    Console().print(table)


def _totals(found: dict[str, Any]) -> str:
    return (
        f"{found['nonzeros']:,} nonzeros of {found['parameters']:,} parameters in {found['bytes']:,} bytes; sparsity "
        f"{100 * found['sparsity']:.2f} % of the targets, {100 * found['sparsity_of_model']:.2f} % of the model"
    )
