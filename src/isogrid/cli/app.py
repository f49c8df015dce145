"""The command itself, to which the other files of this folder add verbs."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from isogrid import __version__

app = typer.Typer(
    name="isogrid",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


def command_line() -> str:
    """What the user typed."""
    return shlex.join(["isogrid", *sys.argv[1:]])
