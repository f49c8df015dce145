"""The command line: thin verbs over the public API."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from isogrid import _NEEDS, __version__
from isogrid.errors import FloorNotHeldError, IsogridError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from isogrid.frontier import OptimizeResult
    from isogrid.frontier.events import Listener
    from isogrid.sparsify import Method
    from isogrid.tasks import Task

app = typer.Typer(
    name="isogrid",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_TASK = typer.Argument(metavar="TASK", help="A ready task's name (see: isogrid tasks) or the path of a task file.")

# Typer took click into itself; the class is where its own exceptions come from, in either case.
_WrongUsage: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"isogrid {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Small, fast neural networks that hold an accuracy you name."""


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
    """Find the balance point of a task.

    That is the smallest model, by its zeros and by the bits of what is left, that holds the accuracy floor.  A run
    that was interrupted goes on when the same command is given again.
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
    # Progress is no output: it goes where it does not disturb what is piped on.
    listener = _listeners(Console(stderr=True, quiet=quiet), loaded, folder, log)
    try:
        result = run_job(
            loaded, out=folder, max_drop=max_drop, floor=floor, minimize=minimize,
            method=_method(canonical(method), option or []), recipe=recipe, match_dense=match_dense, until=until,
            seed=seed, force=force, listener=listener, command=_command_line(),
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
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A run directory, an .onnx or a .safetensors file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count what a file really holds.

    Zeros, nonzeros, parameters and bytes, in all and by layer.
    """
    from isogrid.inspection import inspect as look

    found = look(path)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    console = Console()
    table = Table("layer", "shape", title=Text(str(path)), caption=_totals(found.to_json()))
    for name in ("parameters", "nonzeros", "sparsity"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in found.layers:
        table.add_row(
            Text(layer.name, overflow="fold"), " x ".join(map(str, layer.shape)), f"{layer.parameters:,}",
            f"{layer.nonzeros:,}", f"{100 * layer.sparsity:.2f} %",
        )  # fmt: skip
    console.print(table)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
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
    """List the methods that make zeros.

    The main job climbs through rising sparsities with a method, restarts for each, or prunes after training.
    """
    from isogrid.sparsify import methods as registered

    table = Table("method", "main job", "what it does")
    for name, entry in registered().items():
        implied = ", ".join(f"{option}={value}" for option, value in entry.implied.items())
        summary = entry.summary.replace("``", "") + (f" Here {implied}." if implied else "")
        table.add_row(name, entry.cls.usage.value, Text(summary))
    Console().print(table)


@app.command()
def info() -> None:
    """Show versions and what this CPU offers."""
    from isogrid import _native
    from isogrid.versions import versions

    table = Table("what", "value")
    for name, value in versions().items():
        table.add_row(name, value)
    features = _native.cpu_features()
    table.add_row(
        "cpu", ", ".join(name if value is True else f"{name} {value}" for name, value in features.items() if value)
    )
    table.add_row(
        "kernels", f"{_native.current_target()} (of {', '.join(_native.targets())}; ISOGRID_TARGET forces one)"
    )
    Console().print(table)


def main() -> None:
    """The entry point: every error that can be foreseen is one sentence and an exit code."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = _answer()
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as problem:
        # Who reads the output has gone, which is no failure worth a word; or its disk is full.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(problem, BrokenPipeError):
            _complain(f"The output cannot be written ({problem.strerror}).")
        code = 1
    return code


def _answer() -> int:
    """Run the command and turn whatever it raises into a sentence and an exit code."""
    try:
        code = app(prog_name="isogrid", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except typer.Exit as stop:
        code = stop.exit_code
    except _WrongUsage as problem:
        problem.show()  # type: ignore[attr-defined]
        return 2
    except IsogridError as problem:
        _complain(str(problem))
        return problem.exit_code
    except BrokenPipeError:
        raise
    except Exception as problem:
        if os.environ.get("ISOGRID_TRACEBACK"):
            raise
        library = (problem.name or "").partition(".")[0] if isinstance(problem, ModuleNotFoundError) else ""
        if library in _NEEDS:
            extra = f"isogrid[{_NEEDS[library]}]"
            _complain(f"This needs {library}, which is not installed; install it with: pip install '{extra}'.")
            return MissingDependencyError.exit_code
        where = f"{_where(problem)}; ISOGRID_TRACEBACK=1 shows the whole traceback"
        _complain(f"{type(problem).__name__}: {problem} ({where}).")
        return 1
    if code == 130:
        # Typer returns this code for an interrupt; by itself no command does.
        goes_on = "; the same command goes on from the last finished pass" if "optimize" in sys.argv[1:2] else ""
        _complain(f"Interrupted{goes_on}.", "Stopped:")
    return code if isinstance(code, int) else 0


def _complain(sentence: str, word: str = "Error:") -> None:
    """One line on the error stream, however narrow the terminal, so that it can be searched for."""
    Console(stderr=True).print(f"[red]{word}[/red] {escape(sentence)}", highlight=False, soft_wrap=True)


def _where(problem: BaseException) -> str:
    """The last line that is the user's own, or the very last where none is."""
    own = [Path(__file__).parent, *(Path(found) for found in sys.path if found.endswith("-packages"))]
    frames = traceback.extract_tb(problem.__traceback__)
    theirs = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(folder) for folder in own)]
    frame = (theirs or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"


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


def _method(name: str, options: list[str]) -> Method:
    from isogrid.patterns import parse_pattern
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
    implied = parse_pattern(str(given.get("pattern", "unstructured"))).implied_sparsity
    if name in registered() and "sparsity" not in given and implied is None:
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
        sparse = f"{100 * balance.sparsity:.2f} % sparse"
        print(f"{result.verdict}: {sparse}, {balance.bytes} bytes, {balance.precision}, {result.path}")
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
