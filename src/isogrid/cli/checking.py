"""What the data are worth: check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isogrid.cli.app import app

if TYPE_CHECKING:
    from isogrid.quality import DataReport

_COLOURS = {"good": "green", "note": "yellow", "problem": "red"}


@app.command()
def check(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A ready task's name or the path of a task file.")],
    setting: Annotated[str | None, typer.Option(help="Of a ready task that has several.")] = None,
    samples: Annotated[int, typer.Option(min=10, help="How many samples of a split are compared.")] = 5000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
) -> None:
    """Look for what makes a task's results mislead: duplicates, wrong labels, rare classes, dead inputs."""
    from isogrid.quality import check as look
    from isogrid.tasks import load_task

    loaded = load_task(task) if setting is None else load_task(task).at(setting)
    with Console(stderr=True).status("looking at the data"):
        found = look(loaded, samples=samples, seed=seed)
    if as_json:
        print(found.to_json(), end="")
    else:
        _render(found, Console())


def _render(found: DataReport, console: Console) -> None:
    sizes = ", ".join(f"{count:,} {split}" for split, count in found.samples.items())
    table = Table(title=f"data of {found.task}: {sizes} samples", title_justify="left", show_lines=True)
    for heading in ("check", "", "what was found"):
        table.add_column(heading, overflow="fold")
    for finding in found.findings:
        text = finding.text
        for split, positions in finding.examples.items():
            text += f"\n{split} samples {', '.join(map(str, positions[:5]))}{' ...' if len(positions) > 5 else ''}"
        table.add_row(finding.check, Text(finding.grade, style=_COLOURS[finding.grade]), text)
    console.print(table)
    for reason in found.skipped:
        console.print(f"not checked: {reason}", markup=False)
